"""Area, overlap and clipping of boxes `[x1, y1, x2, y2]` in continuous pixels (glossary: `structures.py`).

Equal to torchvision's `box_area`, `box_iou` and `clip_boxes_to_image`; the overlap is Crystals 2021, eq. 5.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Width times height in square pixels; 0 where a side is negative.

    >>> area(jnp.array([[0.0, 0.0, 4.0, 2.0], [3.0, 3.0, 3.0, 9.0]])).tolist()
    [8.0, 0.0]
    """
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def intersection(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Area of the intersection of each box of `a` with each of `b`, in square pixels.

    >>> intersection(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 1.0, 3.0, 3.0]])).tolist()
    [[1.0]]
    """
    # Two [n, m] arrays rather than one [n, m, 2]: a last axis of length 2 would prevent vectorisation.
    width = jnp.minimum(a[:, None, 2], b[None, :, 2]) - jnp.maximum(a[:, None, 0], b[None, :, 0])
    height = jnp.minimum(a[:, None, 3], b[None, :, 3]) - jnp.maximum(a[:, None, 1], b[None, :, 1])
    return jnp.maximum(width, 0.0) * jnp.maximum(height, 0.0)


def iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every pair, in [0, 1] (Crystals 2021, eq. 5); 0 where both boxes have no area.

    >>> iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 2.0, 2.0]])).tolist()
    [[1.0, 0.5]]
    """
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    # The denominator is made safe before the division: a `where` after it would still give NaN gradients.
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1.0), 0.0)


def clip(boxes: Float[Array, "*n 4"], height: float, width: float) -> Float[Array, "*n 4"]:
    """Clip every corner to `[0, width] x [0, height]`; a box outside collapses onto the border, with no area.

    >>> clip(jnp.array([[-1.0, 2.0, 9.0, 3.0]]), height=4, width=8).tolist()
    [[0.0, 2.0, 8.0, 3.0]]
    """
    return clip_to_window(boxes, jnp.array([0.0, 0.0, width, height], boxes.dtype))


def clip_to_window(boxes: Float[Array, "*n 4"], window: Float[Array, " 4"]) -> Float[Array, "*n 4"]:
    """Like `clip`, to the window `[x1, y1, x2, y2]`: the part of a letterboxed image that is not padding.

    >>> clip_to_window(jnp.array([[-1.0, 2.0, 9.0, 3.0]]), jnp.array([2.0, 0.0, 8.0, 4.0])).tolist()
    [[2.0, 2.0, 8.0, 3.0]]
    """
    low, high = jnp.tile(window[:2], 2), jnp.tile(window[2:], 2)
    return jnp.clip(boxes, low, high)
