"""Deltas: the four numbers that move an anchor (or RoI) onto another box (R-CNN appendix C; Faster R-CNN eq. 2).

With centre (x, y), width w and height h of the box, and x_a, y_a, w_a, h_a of the anchor:

    dx = wx (x - x_a) / w_a     dy = wy (y - y_a) / h_a     dw = ww log(w / w_a)     dh = wh log(h / h_a)

`weights` = (wx, wy, ww, wh) scale the four to similar variance; (10, 10, 5, 5) are the inverse of Matterport's standard
deviations (.1, .1, .2, .2). The order is x, y, w, h, as in torchvision and Detectron2.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

# exp(dw) beyond this would enlarge a 16-pixel anchor to more than 1000 pixels (the limit of Detectron and torchvision).
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def _centres_and_sizes(boxes: Float[Array, "*n 4"]) -> tuple[Float[Array, "*n 2"], Float[Array, "*n 2"]]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes


def encode(
    boxes: Float[Array, "*n 4"], anchors: Float[Array, "*n 4"], weights: tuple[float, ...] = (1, 1, 1, 1)
) -> Float[Array, "*n 4"]:
    """Deltas that move each anchor onto the box in the same row. Sides below 1e-6 px count as 1e-6, so that padded
    slots of zeros give finite deltas.

    >>> encode(jnp.array([[2.0, 0.0, 6.0, 8.0]]), jnp.array([[0.0, 0.0, 4.0, 4.0]])).round(4).tolist()
    [[0.5, 0.5, 0.0, 0.6930999755859375]]
    """
    centres, sizes = _centres_and_sizes(boxes)
    anchor_centres, anchor_sizes = _centres_and_sizes(anchors)
    sizes, anchor_sizes = jnp.maximum(sizes, 1e-6), jnp.maximum(anchor_sizes, 1e-6)
    shift = (centres - anchor_centres) / anchor_sizes
    # The logarithm of the quotient, as in all three sources: a difference of logarithms rounds differently.
    return jnp.concatenate([shift, jnp.log(sizes / anchor_sizes)], -1) * jnp.asarray(weights, boxes.dtype)


def decode(
    deltas: Float[Array, "*n 4"],
    anchors: Float[Array, "*#n 4"],
    weights: tuple[float, ...] = (1, 1, 1, 1),
    *,
    max_log_scale: float | None = MAX_LOG_SCALE,
) -> Float[Array, "*n 4"]:
    """Anchors moved by deltas: the inverse of `encode`. `max_log_scale`, unless None, bounds dw / ww and dh / wh.

    >>> decode(jnp.array([[0.5, 0.5, 0.0, math.log(2.0)]]), jnp.array([[0.0, 0.0, 4.0, 4.0]])).round(4).tolist()
    [[2.0, 0.0, 6.0, 8.0]]
    """
    centres, sizes = _centres_and_sizes(anchors)
    deltas = deltas / jnp.asarray(weights, deltas.dtype)
    log_scale = deltas[..., 2:]
    if max_log_scale is not None:
        log_scale = jnp.minimum(log_scale, max_log_scale)
    new_centres = centres + deltas[..., :2] * sizes
    half = 0.5 * jnp.exp(log_scale) * sizes
    return jnp.concatenate([new_centres - half, new_centres + half], -1)
