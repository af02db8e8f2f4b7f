"""What the losses of both stages share (Fast R-CNN eq. 1 to 3). Cross entropies come from optax."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_mean(
    values: Float[Array, "*n"],
    valid: Bool[Array, "*n"],
    denominator: Float[Array, ""] | float | None = None,
    axis: str | None = None,
) -> Float[Array, ""]:
    """Sum of the valid values over their number (or over `denominator`), floored at 1: nothing valid gives 0, not NaN,
    and finite gradients.

    `axis` names the mesh axis that the batch is spread over (`training/mesh.py`): the denominator is then that of all
    devices together, and the result this device's share of the mean; the shares add up to it. A mean of each device's
    own mean would weigh a positive by how few others happen to lie on the same device.

    >>> masked_mean(jnp.array([1.0, 3.0, jnp.inf]), jnp.array([True, True, False])).item()
    2.0
    """
    total = jnp.where(valid, values, 0.0).sum()
    count = valid.sum().astype(values.dtype) if denominator is None else denominator
    if axis is not None:
        count = jax.lax.psum(count, axis)
    return total / jnp.maximum(count, 1.0)


def smooth_l1(difference: Float[Array, "*n"], beta: float) -> Float[Array, "*n"]:
    """0.5 d^2 / beta for |d| < beta, else |d| - beta / 2 (Fast R-CNN eq. 3, where beta = 1). beta = 0 is plain L1.

    >>> smooth_l1(jnp.array([0.5, -2.0]), beta=1.0).tolist()
    [0.125, 1.5]
    """
    distance = jnp.abs(difference)
    if beta == 0:
        return distance
    return jnp.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
