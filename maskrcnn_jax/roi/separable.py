"""RoI Align's mean as two matrix products, for RoIs with many samples per bin.

Bilinear interpolation is separable, and so is a mean over a grid: with row weights Y [o, h] and column weights X [o, w]
of a RoI, its pooled features are Y f X^T for any number of samples. The gather of `bilinear.py` reads four cells for
each of the (o s)^2 samples, which is cheap for s = 2, but not for s = 8, up to which the adaptive rule (Detectron2)
goes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from maskrcnn_jax.roi.bilinear import AxisSamples

EXACT = jax.lax.Precision.HIGHEST  # some accelerators round factors to bfloat16 or TF32 by default
CHUNK = 64  # RoIs of each image processed at a time: [CHUNK, o, w, c] is the largest array


def interpolation_matrix(
    position: Float[Array, "*r o s"], weight: Float[Array, "*r o s"], length: int
) -> Float[Array, "*r o length"]:
    """Weights of `length` cells in each of o bins, whose s samples have positions (in cells, moved onto the border if
    outside) and weights. One bin with two samples, on cell 1 and halfway between cells 1 and 2:

    >>> interpolation_matrix(jnp.array([[[1.0, 1.5]]]), jnp.full((1, 1, 2), 0.5), 4).tolist()
    [[[0.0, 0.75, 0.25, 0.0]]]
    """
    distance = jnp.abs(jnp.clip(position, 0.0, length - 1.0)[..., None] - jnp.arange(length))
    return (jnp.maximum(1.0 - distance, 0.0) * weight[..., None]).sum(-2)


@jax.jit
def pool_separably(
    levels: tuple[Num[Array, "b _ _ c"], ...], roi_levels: Int[Array, "b r"], rows: AxisSamples, columns: AxisSamples
) -> Float[Array, "b r o o c"]:
    """The mean of each bin's samples; every RoI reads its level (`roi_levels` counts from 0) of its image. `rows` and
    `columns` are those of all b * r RoIs.

    One RoI of one bin with one sample, at row 1 and halfway between columns 0 and 1 of the second level:

    >>> levels = jnp.zeros((1, 4, 4, 1)), jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> yes, one = jnp.ones((1, 1, 1), bool), jnp.ones((1, 1))
    >>> rows, columns = (AxisSamples(jnp.full((1, 1, 1), at), yes, one) for at in (1.0, 0.5))
    >>> pool_separably(levels, jnp.array([[1]]), rows, columns).ravel().tolist()
    [2.5]
    """
    b, r = roi_levels.shape
    levels = tuple(level.astype(jnp.promote_types(level.dtype, jnp.float32)) for level in levels)

    def pool(roi: list[Array], maps: tuple[Array, ...]) -> Array:
        """One RoI of one image."""
        level, y, weight_y, x, weight_x = roi
        pooled = jnp.zeros(())
        for i, features in enumerate(maps):
            over_rows = interpolation_matrix(y, jnp.where(level == i, weight_y, 0.0), features.shape[0])
            over_columns = interpolation_matrix(x, weight_x, features.shape[1])
            lines = jnp.einsum("oh,hwc->owc", over_rows, features, precision=EXACT)
            pooled += jnp.einsum("owc,pw->opc", lines, over_columns, precision=EXACT)
        return pooled

    over_y, over_x = (jnp.where(axis.inside, axis.share[:, None], 0.0) for axis in (rows, columns))
    parts = (roi_levels.reshape(-1), rows.position, over_y, columns.position, over_x)
    parts = [part.reshape(b, r, *part.shape[1:]).swapaxes(0, 1) for part in parts]
    pooled = jax.lax.map(lambda part: jax.vmap(pool)(part, levels), parts, batch_size=CHUNK)
    return pooled.swapaxes(0, 1)
