"""TensorFlow's `tf.image.crop_and_resize`, bilinear: how Matterport's network pools RoIs and cuts out mask targets.

One sample per bin, the outermost on the box's borders, and 0 outside the map. Boxes are shares of the distance between
the centres of the map's first and last cells, so that [0, 0, 1, 1] samples those two.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from maskrcnn_jax import checks
from maskrcnn_jax.roi.bilinear import AxisSamples, Maps, bilinear_pool


def rounded(product: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The product, not contracted with a sum after it into a fused multiply-add, which compilers do in some programs,
    or in parts of one only: the side of a limit that a sample lies on must not hang on that. Nothing is contracted
    across a maximum.

    >>> (rounded(jnp.array(0.1) * 10) - 1).item()
    0.0
    """
    return jnp.maximum(product, jnp.finfo(product.dtype).min)


def quotient(a: Float[Array, "*n"], divisor: float | Float[ArrayLike, "..."]) -> Float[Array, "*n"]:
    """True division. By a constant XLA multiplies with its inverse: 175 cells in 7 bins would make 25.000002 each.

    >>> jax.jit(lambda a: quotient(a, 7))(jnp.array([175.0])).tolist()
    [25.0]
    """
    return a / jnp.where(jnp.isnan(a), 1, divisor)


@partial(jax.jit, static_argnames="bins")
def corner_samples(
    low: Float[Array, " r"], high: Float[Array, " r"], length: Int[Array, " r"], *, bins: int
) -> AxisSamples:
    """One sample per bin, the first and the last on the borders of boxes from `low` to `high`, which are relative to
    the centres of the map's first (0) and last (1) cells; a single bin is sampled in its middle. See `crop.py`.

    >>> corner_samples(jnp.array([0.0]), jnp.array([0.5]), jnp.array([9]), bins=3).position.tolist()
    [[[0.0], [2.0], [4.0]]]
    """
    span = (length - 1).astype(low.dtype)[:, None]
    low, high = low[:, None], high[:, None]
    if bins == 1:
        position = 0.5 * (low + high) * span
    else:
        position = rounded(low * span) + rounded(jnp.arange(bins) * quotient((high - low) * span, bins - 1))
    inside = (position >= 0) & (position <= span)
    return AxisSamples(position[..., None], inside[..., None], jnp.ones_like(low))


def crop_and_resize(
    features: Num[Array | np.ndarray, "h w c"], boxes01: Num[Array | np.ndarray, "r 4"], *, output_size: int
) -> Float[Array, "r o o c"]:
    """Cut boxes out of a map and resize each to o x o cells; equals `tf.image.crop_and_resize` with "bilinear".

    Args:
        features: one map, channels last.
        boxes01: x1, y1, x2, y2, where 0 is the centre of the map's first and 1 that of its last cell. A flipped box
            gives a flipped crop; parts outside read 0.
        output_size: o, cells per side; static under `jit`.

    Returns:
        Values of at least float32.

    Raises:
        ValueError: for other shapes, or an `output_size` below 1.
        TypeError: for what is not an array of numbers, or boxes of 16 bits.

    >>> ramp = jnp.broadcast_to(jnp.arange(5.0), (5, 5))[..., None]
    >>> crop_and_resize(ramp, jnp.array([[0.0, 0.0, 0.5, 1.0]]), output_size=3)[0, 0, :, 0].tolist()
    [0.0, 1.0, 2.0]
    """
    features = checks.as_floats("crop_and_resize: features", features, "h w c")
    boxes01 = checks.as_boxes("crop_and_resize: boxes01", boxes01, "r 4")
    checks.whole("crop_and_resize: output_size", output_size, least=1)
    h, w, c = features.shape
    maps = Maps.same(h, w, boxes01.shape[0])
    x1, y1, x2, y2 = jnp.asarray(boxes01).T
    rows = corner_samples(y1, y2, maps.height, bins=output_size)
    columns = corner_samples(x1, x2, maps.width, bins=output_size)
    return bilinear_pool(features.reshape(-1, c), maps, rows, columns)
