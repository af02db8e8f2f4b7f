"""Building blocks of the losses of both stages (Fast R-CNN eq. 1 to 3). Cross entropies come from optax."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maskrcnn_jax import checks


def masked_mean(
    values: Float[Array, "*n"],
    valid: Bool[Array, "*n"],
    denominator: Float[Array, ""] | float | None = None,
    axis: str | None = None,
) -> Float[Array, ""]:
    """Sum of the valid values divided by their number, or by `denominator`, at least 1.

    Args:
        values: whatever stands where not `valid`, infinity and NaN included, changes nothing.
        valid: of the same shape.
        denominator: default: the number of valid values.
        axis: name of the mesh axis over which the batch is sharded (`training/mesh.py`), static under `jit`: the
            denominator is then summed over all devices, and the result is this device's term of the mean. (The mean of
            the devices' means would give a positive a weight that depends on how many others are on its device.)

    Returns:
        A scalar; 0 with finite gradients where nothing is valid.

    Raises:
        ValueError: `values` and `valid` differ in shape.

    >>> masked_mean(jnp.array([1.0, 3.0, jnp.inf]), jnp.array([True, True, False])).item()
    2.0
    """
    if values.shape != valid.shape:
        shapes = f"values has shape {list(values.shape)} but valid {list(valid.shape)}"
        raise ValueError(f"masked_mean: {shapes}; give one flag for each value")
    total = jnp.where(valid, values, 0.0).sum()
    count = valid.sum().astype(values.dtype) if denominator is None else denominator
    if axis is not None:
        count = jax.lax.psum(count, axis)
    return total / jnp.maximum(count, 1.0)


def smooth_l1(difference: Float[Array, "*n"], beta: float) -> Float[Array, "*n"]:
    """0.5 d^2 / beta for |d| < beta, else |d| - beta / 2 (Fast R-CNN eq. 3, where beta = 1).

    Args:
        difference: of any shape; in the network, predicted minus wanted deltas.
        beta: where the parabola ends; 0 is plain L1. Static under `jit`.

    Returns:
        A loss for each element.

    Raises:
        ValueError: `beta` below 0.

    >>> smooth_l1(jnp.array([0.5, -2.0]), beta=1.0).tolist()
    [0.125, 1.5]
    """
    checks.in_range("smooth_l1: beta", beta, 0)
    distance = jnp.abs(difference)
    if beta == 0:
        return distance
    return jnp.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
