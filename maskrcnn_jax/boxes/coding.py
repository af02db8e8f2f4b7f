"""Deltas: the four numbers that move an anchor (or RoI) onto another box (R-CNN appendix C; Faster R-CNN eq. 2).

With centre (x, y), width w and height h of the box, and x_a, y_a, w_a, h_a of the anchor:

    dx = wx (x - x_a) / w_a     dy = wy (y - y_a) / h_a     dw = ww log(w / w_a)     dh = wh log(h / h_a)

`weights` = (wx, wy, ww, wh) scale the four to similar variance; (10, 10, 5, 5) are the inverse of Matterport's standard
deviations (.1, .1, .2, .2). The order is x, y, w, h, as in torchvision and Detectron2.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from maskrcnn_jax import checks

# exp(dw) beyond this would enlarge a 16-pixel anchor to more than 1000 pixels (the limit of Detectron and torchvision).
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def _check_weights(function: str, weights: tuple[float, ...]) -> None:
    if len(weights) != 4:
        raise ValueError(f"{function}: weights are {weights}; give four, for x, y, width and height")
    for weight in weights:
        checks.in_range(f"{function}: one of weights", weight, 0, above=True)


def _centres_and_sizes(boxes: Float[Array | np.ndarray, "*n 4"]) -> tuple[Float[Array, "*n 2"], Float[Array, "*n 2"]]:
    boxes = jnp.asarray(boxes)
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes


@partial(jax.jit, static_argnames="weights")
def encode(
    boxes: Num[Array | np.ndarray, "*n 4"],
    anchors: Num[Array | np.ndarray, "*n 4"],
    weights: tuple[float, ...] = (1, 1, 1, 1),
) -> Float[Array, "*n 4"]:
    """Deltas that move each anchor onto the box in the same row: the formula of the module docstring.

    Args:
        boxes: `[x1, y1, x2, y2]` in pixels, any number of leading axes. Sides below 1e-6 px count as 1e-6, here and in
            `anchors`, so that padded slots of zeros give finite deltas.
        anchors: as many boxes.
        weights: four numbers above 0, for x, y, width and height; static under `jit`.

    Returns:
        (dx, dy, dw, dh) for each row, without a unit.

    Raises:
        ValueError: other shapes, or weights that are not four numbers above 0.
        TypeError: boxes of 16 bits, or not an array.

    A box as wide as its anchor, twice as high, and half a side to the right and below:

    >>> encode(jnp.array([[2.0, 0.0, 6.0, 8.0]]), jnp.array([[0.0, 0.0, 4.0, 4.0]])).round(4).tolist()
    [[0.5, 0.5, 0.0, 0.6930999755859375]]
    """
    boxes, anchors = checks.as_boxes("encode: boxes", boxes), checks.as_boxes("encode: anchors", anchors)
    checks.same_length("encode", boxes=boxes, anchors=anchors)
    _check_weights("encode", weights)
    centres, sizes = _centres_and_sizes(boxes)
    anchor_centres, anchor_sizes = _centres_and_sizes(anchors)
    sizes, anchor_sizes = jnp.maximum(sizes, 1e-6), jnp.maximum(anchor_sizes, 1e-6)
    shift = (centres - anchor_centres) / anchor_sizes
    # The logarithm of the quotient, as in all three sources: a difference of logarithms rounds differently.
    return jnp.concatenate([shift, jnp.log(sizes / anchor_sizes)], -1) * jnp.asarray(weights, boxes.dtype)


@partial(jax.jit, static_argnames=("weights", "max_log_scale"))
def decode(
    deltas: Num[Array | np.ndarray, "*n 4"],
    anchors: Num[Array | np.ndarray, "*#n 4"],
    weights: tuple[float, ...] = (1, 1, 1, 1),
    *,
    max_log_scale: float | None = MAX_LOG_SCALE,
) -> Float[Array, "*n 4"]:
    """Anchors moved by deltas: the inverse of `encode`.

    Args:
        deltas: (dx, dy, dw, dh), any number of leading axes.
        anchors: boxes `[x1, y1, x2, y2]` in pixels, of the same shape or one that broadcasts to it.
        weights: those that the deltas were encoded with; static under `jit`.
        max_log_scale: upper bound of dw / ww and dh / wh, or None for no bound; static under `jit`.

    Returns:
        Boxes in pixels, not clipped to the image.

    Raises:
        ValueError: other shapes, weights that are not four numbers above 0, or a `max_log_scale` of NaN.
        TypeError: anchors of 16 bits, or not an array.

    >>> decode(jnp.array([[0.5, 0.5, 0.0, math.log(2.0)]]), jnp.array([[0.0, 0.0, 4.0, 4.0]])).round(4).tolist()
    [[2.0, 0.0, 6.0, 8.0]]
    """
    deltas, anchors = checks.as_floats("decode: deltas", deltas, "*n 4"), checks.as_boxes("decode: anchors", anchors)
    _check_weights("decode", weights)
    centres, sizes = _centres_and_sizes(anchors)
    deltas = deltas / jnp.asarray(weights, deltas.dtype)
    log_scale = deltas[..., 2:]
    if max_log_scale is not None:
        remedy = "give a number, or None for no bound"
        checks.in_range("decode: max_log_scale", max_log_scale, -math.inf, remedy=remedy)
        log_scale = jnp.minimum(log_scale, max_log_scale)
    new_centres = centres + deltas[..., :2] * sizes
    half = 0.5 * jnp.exp(log_scale) * sizes
    return jnp.concatenate([new_centres - half, new_centres + half], -1)
