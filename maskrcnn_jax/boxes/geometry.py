"""Area, overlap and clipping of boxes `[x1, y1, x2, y2]` in continuous pixels (glossary: `structures.py`).

Equal to torchvision's `box_area`, `box_iou` and `clip_boxes_to_image`, to the last bit in float32; the overlap is
Crystals 2021, eq. 5. Each function is compiled once per shape; boxes may be NumPy or JAX arrays, of floats or integers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from maskrcnn_jax import checks


def _product(a: Float[Array, "*n"], b: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`a * b` of sides that are not negative, rounded by itself.

    Compilers contract `a * b + c` to one operation with one rounding, in some programs only and in parts of one only;
    then equal overlaps would differ. Nothing is contracted across a maximum.
    """
    return jnp.maximum(a * b, 0.0)


@jax.jit
def area(boxes: Num[Array | np.ndarray, "*n 4"]) -> Float[Array, "*n"]:
    """Width times height.

    Args:
        boxes: any number of leading axes.

    Returns:
        Square pixels; 0 where a side is negative.

    Raises:
        ValueError: the last axis is not 4.
        TypeError: boxes of 16 bits, or not an array.

    >>> area(jnp.array([[0.0, 0.0, 4.0, 2.0], [3.0, 3.0, 3.0, 9.0]])).tolist()
    [8.0, 0.0]
    """
    boxes = checks.as_boxes("area: boxes", boxes)
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return _product(sides[..., 0], sides[..., 1])


@jax.jit
def intersection(a: Num[Array | np.ndarray, "n 4"], b: Num[Array | np.ndarray, "m 4"]) -> Float[Array, "n m"]:
    """Area of the intersection of each box of `a` with each of `b`.

    Args:
        a: n boxes.
        b: m boxes.

    Returns:
        Square pixels of every pair; 0 for boxes that only touch, or have no area.

    Raises:
        ValueError: not [n, 4] and [m, 4].
        TypeError: as in `area`.

    >>> intersection(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 1.0, 3.0, 3.0]])).tolist()
    [[1.0]]
    """
    a, b = checks.as_boxes("intersection: a", a, "n 4"), checks.as_boxes("intersection: b", b, "m 4")
    # Two [n, m] arrays rather than one [n, m, 2]: a last axis of length 2 would prevent vectorisation.
    width = jnp.minimum(a[:, None, 2], b[None, :, 2]) - jnp.maximum(a[:, None, 0], b[None, :, 0])
    height = jnp.minimum(a[:, None, 3], b[None, :, 3]) - jnp.maximum(a[:, None, 1], b[None, :, 1])
    return _product(jnp.maximum(width, 0.0), jnp.maximum(height, 0.0))


@jax.jit
def iou(a: Num[Array | np.ndarray, "n 4"], b: Num[Array | np.ndarray, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every pair: `shared / (area(a) + area(b) - shared)` (Crystals 2021, eq. 5).

    Args:
        a: n boxes.
        b: m boxes.

    Returns:
        From 0 (apart) to 1 (equal); 0 where both boxes have no area, or a corner is NaN.

    Raises:
        ValueError: not [n, 4] and [m, 4].
        TypeError: as in `area`.

    >>> iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 2.0, 2.0]])).tolist()
    [[1.0, 0.5]]
    """
    a, b = checks.as_boxes("iou: a", a, "n 4"), checks.as_boxes("iou: b", b, "m 4")
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    # The denominator is made safe before the division: a `where` after it would still give NaN gradients.
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1.0), 0.0)


def clip(
    boxes: Num[Array | np.ndarray, "*n 4"], height: float | Num[ArrayLike, ""], width: float | Num[ArrayLike, ""]
) -> Float[Array, "*n 4"]:
    """Clip every corner to `[0, width] x [0, height]`, the whole of an image.

    Args:
        boxes: any number of leading axes.
        height: of the image, in pixels; may be traced, as `width`.
        width: of the image.

    Returns:
        As many boxes; one outside collapses onto the border, with no area.

    Raises:
        ValueError: the last axis is not 4, or a side below 0.
        TypeError: as in `area`.

    >>> clip(jnp.array([[-1.0, 2.0, 9.0, 3.0]]), height=4, width=8).tolist()
    [[0.0, 2.0, 8.0, 3.0]]
    """
    boxes = jnp.asarray(checks.as_boxes("clip: boxes", boxes))
    checks.in_range("clip: height", height, 0)
    checks.in_range("clip: width", width, 0)
    return clip_to_window(boxes, jnp.array([0.0, 0.0, width, height], boxes.dtype))


@jax.jit
def clip_to_window(
    boxes: Num[Array | np.ndarray, "*n 4"], window: Num[Array | np.ndarray, " 4"]
) -> Float[Array, "*n 4"]:
    """Like `clip`, to a window: the part of a letterboxed image that is not padding.

    Args:
        boxes: any number of leading axes.
        window: one box `[x1, y1, x2, y2]`.

    Returns:
        As many boxes; one outside collapses onto the border, with no area.

    Raises:
        ValueError: the last axis is not 4, or more than one window.
        TypeError: as in `area`.

    >>> clip_to_window(jnp.array([[-1.0, 2.0, 9.0, 3.0]]), jnp.array([2.0, 0.0, 8.0, 4.0])).tolist()
    [[2.0, 2.0, 8.0, 3.0]]
    """
    boxes = checks.as_boxes("clip_to_window: boxes", boxes)
    window = checks.as_boxes("clip_to_window: window", window, "4")
    return jnp.clip(boxes, jnp.tile(window[:2], 2), jnp.tile(window[2:], 2))
