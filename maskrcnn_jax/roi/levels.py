"""Which level of the pyramid a RoI is read from (FPN equation 1): small boxes from fine maps."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from maskrcnn_jax import checks

OPTIONS = ("min_level", "max_level", "canonical_size", "canonical_level", "rounding", "epsilon")


@partial(jax.jit, static_argnames=OPTIONS)
def assign_levels(
    boxes: Num[Array | np.ndarray, "*r 4"],
    *,
    min_level: int = 2,
    max_level: int = 5,
    canonical_size: float = 224,
    canonical_level: int = 4,
    rounding: Literal["floor", "round"] = "floor",
    epsilon: float = 0.0,
) -> Int[Array, "*r"]:
    """canonical_level + log2(sqrt(w h) / canonical_size), rounded, from `min_level` to `max_level`.

    Args:
        boxes: x1, y1, x2, y2 in pixels.
        min_level: the finest level there is; static under `jit`, as all that follows.
        max_level: the coarsest level there is.
        canonical_size: side in pixels of a box for `canonical_level`.
        canonical_level: 4, as in FPN.
        rounding: "floor" as in FPN, or "round" as in Matterport's network.
        epsilon: added to the logarithm (torchvision: 1e-6).

    Returns:
        A level for each box; the finest for one without area, or with a NaN.

    Raises:
        ValueError: an argument of another shape, or out of range.
        TypeError: not an array of numbers, or boxes of 16 bits.

    >>> assign_levels(jnp.array([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 112.0, 112.0]])).tolist()
    [4, 2, 3]
    """
    boxes = checks.as_boxes("assign_levels: boxes", boxes)
    checks.whole("assign_levels: min_level", min_level, least=0)
    checks.whole("assign_levels: max_level", max_level, least=min_level)
    checks.in_range("assign_levels: canonical_size", canonical_size, 0, above=True)
    checks.one_of("assign_levels: rounding", rounding, ("floor", "round"))
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    size = jnp.sqrt(sides[..., 0] * sides[..., 1])
    level = canonical_level + jnp.log2(jnp.where(size > 1e-6, size, 1e-6) / canonical_size) + epsilon
    level = jnp.floor(level) if rounding == "floor" else jnp.round(level)
    return jnp.clip(level, min_level, max_level).astype(jnp.int32)
