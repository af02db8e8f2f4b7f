"""RoI Align's mean as two matrix products, for RoIs with many samples per bin.

Bilinear interpolation is separable, and so is a mean over a grid: with row weights Y [o, h] and column weights X [o, w]
of a RoI, its pooled features are Y f X^T for any number of samples. The gather of `align.py` reads four cells for each
of the (o s)^2 samples, which is cheap for s = 2, but not for s = 8, up to which the adaptive rule (Detectron2) goes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.roi.grid import AxisSamples

EXACT = jax.lax.Precision.HIGHEST  # some accelerators round factors to bfloat16 or TF32 by default
CHUNK = 64  # RoIs processed at a time: [CHUNK, o, w, c] is the largest array


def interpolation_matrix(
    position: Float[Array, "*r o s"], weight: Float[Array, "*r o s"], length: int
) -> Float[Array, "*r o length"]:
    """Weights of `length` cells in each of o bins, whose s samples have positions (in cells, moved onto the border if
    outside) and weights.

    One bin with two samples, on cell 1 and halfway between cells 1 and 2:

    >>> interpolation_matrix(jnp.array([[[1.0, 1.5]]]), jnp.full((1, 1, 2), 0.5), 4).tolist()
    [[[0.0, 0.75, 0.25, 0.0]]]
    """
    distance = jnp.abs(jnp.clip(position, 0.0, length - 1.0)[..., None] - jnp.arange(length))
    return (jnp.maximum(1.0 - distance, 0.0) * weight[..., None]).sum(-2)


def mean_weights(samples: AxisSamples) -> Float[Array, "r o s"]:
    """Weight of each sample in its bin's mean along this axis; 0 for samples outside or unused.

    A bin that uses one of its two samples, and one that uses both, of which the first lies outside:

    >>> inside, used = jnp.array([[[True, True]], [[False, True]]]), jnp.array([[True, False], [True, True]])
    >>> mean_weights(AxisSamples(jnp.zeros((2, 1, 2)), inside, used)).tolist()
    [[[1.0, 0.0]], [[0.0, 0.5]]]
    """
    count = jnp.maximum(samples.used.sum(1), 1)[:, None, None]
    return (samples.inside & samples.used[:, None, :]) / count


def crop_separably(images: Float[Array, "r h w"], rows: AxisSamples, columns: AxisSamples) -> Float[Array, "r o o"]:
    """The mean of each bin's samples; every RoI reads its own image.

    A 2x2 image of 1, 2, 3, 4 and one bin that samples its centre:

    >>> middle = AxisSamples(jnp.full((1, 1, 1), 0.5), jnp.ones((1, 1, 1), bool), jnp.ones((1, 1), bool))
    >>> crop_separably(jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), middle, middle).tolist()
    [[[2.5]]]
    """
    over_rows = interpolation_matrix(rows.position, mean_weights(rows), images.shape[1])
    over_columns = interpolation_matrix(columns.position, mean_weights(columns), images.shape[2])
    lines = jnp.einsum("roh,rhw->row", over_rows, images, precision=EXACT)
    return jnp.einsum("row,rpw->rop", lines, over_columns, precision=EXACT)


def pool_separably(
    levels: tuple[Float[Array, "b _ _ c"], ...],
    roi_levels: Int[Array, "b r"],
    rows: tuple[Float[Array, "b r o s"], Float[Array, "b r o s"]],
    columns: tuple[Float[Array, "b r o s"], Float[Array, "b r o s"]],
) -> Float[Array, "b r o o c"]:
    """Pool every RoI from its level (`roi_levels` counts from 0); `rows` and `columns` are (positions, weights).

    One RoI of one bin with one sample, at row 1 and halfway between columns 0 and 1 of the second level:

    >>> levels = jnp.zeros((1, 4, 4, 1)), jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> one, at = jnp.ones((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), 0.5)
    >>> pool_separably(levels, jnp.array([[1]]), (one, one), (at, one)).ravel().tolist()
    [2.5]
    """
    b, r = roi_levels.shape
    chunk = max(min(CHUNK, r), 1)
    padding = -r % chunk

    def chunks(array: Array) -> Array:
        padded = jnp.pad(array, [(0, 0), (0, padding)] + [(0, 0)] * (array.ndim - 2))
        return padded.reshape(b, -1, chunk, *array.shape[2:]).swapaxes(0, 1)

    def pool(part: tuple[Array, ...]) -> Array:
        level, y, weight_y, x, weight_x = part
        pooled = jnp.zeros(())
        for i, features in enumerate(levels):
            on_level = (level == i)[..., None, None]
            over_rows = interpolation_matrix(y, weight_y * on_level, features.shape[1])
            over_columns = interpolation_matrix(x, weight_x, features.shape[2])
            lines = jnp.einsum("broh,bhwc->browc", over_rows, features.astype(jnp.float32), precision=EXACT)
            pooled += jnp.einsum("browc,brpw->bropc", lines, over_columns, precision=EXACT)
        return pooled

    pooled = jax.lax.map(pool, tuple(map(chunks, (roi_levels, *rows, *columns))))
    return pooled.swapaxes(0, 1).reshape(b, r + padding, *pooled.shape[3:])[:, :r]
