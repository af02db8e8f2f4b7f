"""The layers that the network is built from: convolution and normalisation (He et al. 2015, section 3.4).

`nnx.Conv` is not used because its gradients are slow on CPUs (see `kernels/convolution.py`).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskrcnn_jax.kernels.convolution import Padding, conv2d
from maskrcnn_jax.kernels.normal import normal


def add_bias(features: Float[Array, "*n c"], bias: Float[Array, " c"]) -> Float[Array, "*n c"]:
    """Features plus a float32 bias, in the features' dtype; added in float32 so that the bias's gradient is float32.

    That gradient sums over a whole map, and 256 + 1 is 256 in bfloat16 (mixed precision: Micikevicius et al. 2018,
    section 3.3).

    >>> ones = jnp.ones((64, 64, 1), jnp.bfloat16)
    >>> jax.grad(lambda bias: add_bias(ones, bias).astype(jnp.float32).sum())(jnp.zeros(1)).tolist()
    [4096.0]
    """
    return (features.astype(jnp.float32) + bias).astype(features.dtype)


class Conv(nnx.Module):
    """2-D convolution, NHWC, with or without bias. Parameters are float32; the computation is in `dtype`.

    A 3x3 kernel of ones counts the neighbours of each cell, including itself:

    >>> conv = Conv(1, 1, 3, bias=False, rngs=nnx.Rngs(0))
    >>> conv.kernel[...] = jnp.ones((3, 3, 1, 1))
    >>> conv(jnp.ones((1, 2, 3, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [4.0, 6.0, 4.0]]
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding | None = None,
        bias: bool = True,
        scale: float = 2.0,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """`padding` None: size // 2 on every side. `scale` is the gain of the fan-in initialisation: 2 before a ReLU
        (He et al. 2015), 1 elsewhere, small for outputs that should start near 0.
        """
        deviation = math.sqrt(scale / (size * size * inputs))
        self.kernel = nnx.Param(normal(rngs.params(), (size, size, inputs, outputs), deviation))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.stride = stride
        self.padding = ((size // 2, size // 2),) * 2 if padding is None else padding
        self.dtype = dtype

    def __call__(self, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
        kernel = self.kernel[...].astype(self.dtype)
        features = features.astype(self.dtype)
        out: Array = conv2d(features, kernel, self.stride, self.padding)
        return out if self.bias is None else add_bias(out, self.bias[...])


class Affine(nnx.Module):
    """Scale and shift per channel: frozen batch norm with its statistics, epsilon and the convolution's bias folded in
    by the weight converters.

    >>> norm = Affine(2)
    >>> norm.scale[...], norm.shift[...] = jnp.array([2.0, 1.0]), jnp.array([1.0, 0.0])
    >>> norm(jnp.array([[[[3.0, 4.0]]]])).ravel().tolist()
    [7.0, 4.0]
    """

    def __init__(self, channels: int, *, scale: float = 1.0):
        self.scale = nnx.Param(jnp.full(channels, scale, jnp.float32))
        self.shift = nnx.Param(jnp.zeros(channels))

    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return (features.astype(jnp.float32) * self.scale[...] + self.shift[...]).astype(features.dtype)


class GroupNorm(nnx.Module):
    """Wu and He 2018, eq. 1-4: mean and variance over rows, columns and the channels of a group, separately for each
    image; in float32. Unlike batch norm it allows training from scratch with a few images per step.

    One cell with a group of two channels, 1 and 3: mean 2, standard deviation 1.

    >>> GroupNorm(2, group_size=2)(jnp.array([[[[1.0, 3.0]]]])).round(3).ravel().tolist()
    [-1.0, 1.0]
    """

    def __init__(self, channels: int, *, group_size: int, scale: float = 1.0, epsilon: float = 1e-5):
        """Raises ValueError if `group_size` does not divide `channels`."""
        if channels % group_size:
            raise ValueError(f"group_size {group_size} does not divide {channels} channels")
        self.scale = nnx.Param(jnp.full(channels, scale, jnp.float32))
        self.shift = nnx.Param(jnp.zeros(channels))
        self.group_size, self.epsilon = group_size, epsilon

    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b = features.shape[0]
        values = features.astype(jnp.float32)
        # First over rows and columns per channel, which vectorises, then over the few channels of a group.
        mean = values.mean((1, 2)).reshape(b, -1, self.group_size).mean(-1)
        square = (values**2).mean((1, 2)).reshape(b, -1, self.group_size).mean(-1)
        inverse = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + self.epsilon)
        scale = jnp.repeat(inverse, self.group_size, axis=1) * self.scale[...]
        shift = self.shift[...] - jnp.repeat(mean, self.group_size, axis=1) * scale
        return (values * scale[:, None, None] + shift[:, None, None]).astype(features.dtype)


def make_norm(kind: str, channels: int, *, group_size: int, scale: float = 1.0) -> Affine | GroupNorm:
    """The normalisation layer named in the config: "affine" or "group".

    >>> type(make_norm("group", 8, group_size=4)).__name__
    'GroupNorm'
    """
    if kind == "affine":
        return Affine(channels, scale=scale)
    return GroupNorm(channels, group_size=group_size, scale=scale)
