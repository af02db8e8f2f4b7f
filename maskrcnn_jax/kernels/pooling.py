"""A 3x3 max-pool of stride 2 whose gradient is fast (the pool after ResNet's stem, He et al. 2015, table 1).

XLA computes the gradient of a pooling window by `select_and_scatter`, which is slow on CPUs, and on GPUs adds
atomically in the features' type. Here the pool is written as maxima of shifted slices, first over rows, then over
columns, whose gradients are elementwise.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def by_slices(features: Float[Array, "b h w c"], padding: tuple[int, int]) -> Float[Array, "b h//2 w//2 c"]:
    """`max_pool` by shifted slices on every device.

    >>> by_slices(jnp.arange(16.0).reshape(1, 4, 4, 1), (1, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    padded = jnp.pad(features, ((0, 0), padding, padding, (0, 0)))
    rows, columns = features.shape[1] // 2, features.shape[2] // 2
    tall = [padded[:, i : i + 2 * rows - 1 : 2] for i in range(3)]
    highest = jnp.maximum(jnp.maximum(tall[0], tall[1]), tall[2])
    wide = [highest[:, :, j : j + 2 * columns - 1 : 2] for j in range(3)]
    return jnp.maximum(jnp.maximum(wide[0], wide[1]), wide[2])


def max_pool(features: Float[Array, "b h w c"], padding: tuple[int, int]) -> Float[Array, "b h//2 w//2 c"]:
    """3x3 max-pool of stride 2 over non-negative values, as after a ReLU; height and width are even.

    Equal maxima share the gradient; XLA's pooling gives it to the first of them.

    Args:
        features: the maps.
        padding: cells (before, after) on both axes: (1, 1), or (0, 1) as Keras has it.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (1, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """

    def by_xla(features):
        edges = ((0, 0), padding, padding, (0, 0))
        return lax.reduce_window(features, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)

    return lax.platform_dependent(features, cpu=lambda features: by_slices(features, padding), default=by_xla)
