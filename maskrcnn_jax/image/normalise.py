"""Letterboxed values 0-255 to the network's input: (value - mean) / std (Crystals 2021, section 2.2)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from maskrcnn_jax.config import ImageConfig


def normalise(
    images: Num[Array, "b h w 3"], windows: Float[Array, "b 4"], *, config: ImageConfig
) -> Float[Array, "b h w 3"]:
    """Subtract the mean colour and divide by the standard deviation.

    Args:
        images: RGB values 0-255, uint8 or float.
        windows: the part of each image that is not padding, in pixels. A pixel is inside if its centre is.
        config: mean and standard deviation of each channel; with `padding` "mean", values outside the windows become
            0, the mean colour. Static under `jit`.

    Returns:
        float32, or float64 for float64 images.

    >>> config = ImageConfig(mean=(100.0, 100.0, 100.0), std=(2.0, 2.0, 2.0), padding="mean")
    >>> normalise(jnp.full((1, 1, 2, 3), 104.0), jnp.array([[0.0, 0.0, 1.0, 1.0]]), config=config)[0, 0, :, 0].tolist()
    [2.0, 0.0]
    """
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    values = (images.astype(dtype) - jnp.array(config.mean, dtype)) / jnp.array(config.std, dtype)
    if config.padding == "black":
        return values
    x1, y1, x2, y2 = (windows[:, i, None, None] for i in range(4))
    rows, columns = jnp.arange(images.shape[1])[:, None] + 0.5, jnp.arange(images.shape[2]) + 0.5
    inside = (rows > y1) & (rows < y2) & (columns > x1) & (columns < x2)
    return jnp.where(inside[..., None], values, 0.0)
