"""The network's input: a batch of letterboxed images, checked and normalised (Crystals 2021, section 2.2)."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Num

from maskrcnn_jax import checks
from maskrcnn_jax.config import ImageConfig

COARSEST = 64  # the stride of P6


def as_batch(
    images: Num[Array | np.ndarray, "b h w 3"], windows: Num[Array | np.ndarray, "b 4"] | None = None
) -> tuple[Num[Array, "b h w 3"], Float[Array, "b 4"]]:
    """Images and windows as the network takes them.

    Args:
        images: [b, h, w, 3], RGB values 0-255, uint8 or float; height and width are multiples of 64.
        windows: [b, 4], the part of each image that is not padding, in pixels; None: the whole images.

    Returns:
        Both as JAX arrays, windows as floats.

    Raises:
        TypeError: one of them is no array of numbers.
        ValueError: for other shapes, and for values 0-1, which are seen unless the images are traced.

    >>> as_batch(jnp.zeros((1, 64, 128, 3), jnp.uint8))[1].tolist()
    [[0.0, 0.0, 128.0, 64.0]]
    """
    checks.shape("images", images, "b h w 3", remedy="give RGB images as [b, height, width, 3]")
    b, height, width, _ = images.shape
    if height % COARSEST or width % COARSEST or not height * width:
        raise ValueError(
            f"images are {height} x {width} pixels; height and width must be multiples of {COARSEST}: see letterbox"
        )
    images = jnp.asarray(images)
    if jnp.issubdtype(images.dtype, jnp.floating) and not isinstance(images, Tracer):
        largest = float(jnp.max(images, initial=0.0))
        if 0 < largest <= 1:
            raise ValueError(f"images have values up to {largest:.3g}; give 0 to 255, not 0 to 1")
    if windows is None:
        return images, jnp.tile(jnp.array([0.0, 0.0, width, height]), (b, 1))
    windows = jnp.asarray(checks.as_boxes("windows", windows, "b 4"))
    checks.same_length("detect", images=images, windows=windows)
    return images, windows


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
