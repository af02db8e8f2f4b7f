"""The layers that the network is built from: convolution and normalisation (He et al. 2015, section 3.4).

Unlike `nnx.Conv`, which adds its bias in the type of the computation, `Conv` adds it in float32, and can compute by
other `kernels`.
Parameters are float32. What loses digits in bfloat16 (sums over many, norms, biases) is computed in float32 at least
(Micikevicius et al. 2018, section 3); with JAX's 64-bit mode and float64 arrays everything is float64.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from maskrcnn_jax import checks
from maskrcnn_jax.kernels import fusing
from maskrcnn_jax.kernels.convolution import Padding, conv2d
from maskrcnn_jax.kernels.normal import normal


@dataclass(frozen=True)
class Compute:
    """How layers compute; the same value is handed to every layer of a network.

    Attributes:
        dtype: type of convolutions and matrix products: "float32", "bfloat16", or "float64" in JAX's 64-bit mode.
        kernels: "xla" computes with XLA's operations on every device. "cpu" computes on CPUs with those of
            `maskrcnn_jax/kernels`, which are faster there, and on other devices with XLA's. "gpu" computes on every
            device in forms that GPUs like.

    Raises:
        ValueError: `kernels` or `dtype` is none of these.

    >>> Compute(dtype="bfloat16")
    Compute(dtype='bfloat16', kernels='xla')
    """

    dtype: str = "float32"
    kernels: str = "xla"

    def __post_init__(self) -> None:
        checks.one_of("Compute: kernels", self.kernels, ("xla", "cpu", "gpu"))
        checks.one_of("Compute: dtype", self.dtype, ("float32", "bfloat16", "float64"))
        if self.dtype == "float64" and jax.dtypes.canonicalize_dtype("float64") != jnp.float64:
            raise ValueError("Compute: dtype is 'float64'; first call jax.config.update('jax_enable_x64', True)")


XLA = Compute()  # float32, by XLA: the default of every layer


def at_least_float32(values: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The values as float32 if they are bfloat16, else in their own type.

    >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def random_weights(
    key: Key[Array, ""], shape: tuple[int, ...], deviation: float, kernels: str = "xla"
) -> Float[Array, "..."]:
    """Independent, normally distributed weights of mean 0 (He et al. 2015, section 2.2).

    Args:
        key: random key; a key is a draw, whatever the `kernels`.
        shape: of the weights, static under `jit`.
        deviation: standard deviation.
        kernels: as in `Compute`.

    Returns:
        float32 of that shape.

    >>> random_weights(jax.random.key(0), (3, 3, 16, 8), 0.01).shape
    (3, 3, 16, 8)
    """
    if kernels == "cpu":
        return normal(key, shape, deviation)
    return jax.random.normal(key, shape, jnp.float32) * deviation


def add_bias(features: Float[Array, "*n c"], bias: Float[Array, " c"], kernels: str = "xla") -> Float[Array, "*n c"]:
    """Features plus a bias per channel, in the features' dtype.

    They are added in float32 at least, so that the bias's gradient, a sum over a whole map, is too: 256 + 1 is 256 in
    bfloat16. With the `kernels` "gpu" (see `Compute`) the gradient alone is float32.

    >>> ones = jnp.ones((64, 64, 1), jnp.bfloat16)
    >>> jax.grad(lambda bias: add_bias(ones, bias).astype(jnp.float32).sum())(jnp.zeros(1)).tolist()
    [4096.0]
    """
    if kernels == "gpu":
        return fusing.add_bias(features, bias)
    return (at_least_float32(features) + bias).astype(features.dtype)


def relu(features: Float[Array, "*n"], kernels: str = "xla") -> Float[Array, "*n"]:
    """max(x, 0) (He et al. 2015, eq. 1); `kernels` is that of `Compute`.

    >>> relu(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return fusing.relu(features) if kernels == "gpu" else jax.nn.relu(features)


class Conv(nnx.Module):
    """2-D convolution with or without bias, in the layout NHWC.

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
        compute: Compute = XLA,
        rngs: nnx.Rngs,
    ):
        """A convolution with random weights.

        Args:
            inputs: input channels.
            outputs: output channels.
            size: rows and columns of the kernel, [size, size, inputs, outputs].
            stride: of the windows, on both axes.
            padding: zeros ((above, below), (left, right)); None: size // 2 on every side.
            bias: whether there is one.
            scale: gain of the fan-in initialisation: 2 before a ReLU (He et al. 2015, eq. 10), 1 elsewhere, small for
                outputs that should start near 0.
            compute: in which type, and by which kernels.
            rngs: random keys.
        """
        shape = (size, size, inputs, outputs)
        deviation = math.sqrt(scale / (size * size * inputs))
        self.kernel = nnx.Param(random_weights(rngs.params(), shape, deviation, compute.kernels))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.stride = stride
        self.padding = ((size // 2, size // 2),) * 2 if padding is None else padding
        self.compute = compute

    def __call__(self, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
        """The maps after the convolution, in the type of `compute`.

        Args:
            features: [b, h, w, inputs]. With the default padding and an odd kernel, sides are divided by the stride.

        Raises:
            ValueError: the features have another number of channels.
        """
        out = self.convolve(features, self.kernel[...])
        return out if self.bias is None else add_bias(out, self.bias[...], self.compute.kernels)

    def convolve(self, features: Float[Array, "b h w i"], kernel: Float[Array, "s s i o"]) -> Float[Array, "b hh ww o"]:
        """The maps after a convolution with a kernel of this one's shape, without the bias."""
        checks.shape("Conv: features", features, f"b h w {self.kernel.shape[2]}")
        features, kernel = features.astype(self.compute.dtype), kernel.astype(self.compute.dtype)
        if self.compute.kernels == "cpu":
            return conv2d(features, kernel, self.stride, self.padding)
        strides, layout = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(features, kernel, strides, self.padding, dimension_numbers=layout)


class Affine(nnx.Module):
    """Scale and shift per channel, [b, h, w, c] -> [b, h, w, c]: a batch norm that is not trained (Ioffe and Szegedy
    2015), into which the weight converters fold its statistics, its epsilon and the convolution's bias.

    >>> norm = Affine(2)
    >>> norm.scale[...], norm.shift[...] = jnp.array([2.0, 1.0]), jnp.array([1.0, 0.0])
    >>> norm(jnp.array([[[[3.0, 4.0]]]])).ravel().tolist()
    [7.0, 4.0]
    """

    def __init__(self, channels: int, *, scale: float = 1.0):
        """`scale` is the initial value of the scales; shifts start at 0."""
        self.scale = nnx.Param(jnp.full(channels, scale, jnp.float32))
        self.shift = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        checks.shape("Affine: features", features, f"b h w {self.scale.shape[0]}")
        return (at_least_float32(features) * self.scale[...] + self.shift[...]).astype(features.dtype)


class GroupNorm(nnx.Module):
    """Each group of channels of an image less its mean, divided by its standard deviation; then scale and shift per
    channel (Wu and He 2018, eq. 1-4). Mean and variance are taken over rows, columns and the channels of a group.

    [b, h, w, c] -> [b, h, w, c]. Images do not influence each other, so that, unlike with batch norm, a few images a
    step are enough to train from scratch.

    One cell with a group of two channels, 1 and 3: mean 2, standard deviation 1.

    >>> GroupNorm(2, group_size=2)(jnp.array([[[[1.0, 3.0]]]])).round(3).ravel().tolist()
    [-1.0, 1.0]
    """

    def __init__(self, channels: int, *, group_size: int, scale: float = 1.0, epsilon: float = 1e-5):
        """Scales of `scale` and shifts of 0.

        Args:
            channels: of the features.
            group_size: channels of a group.
            scale: initial value of the scales; 0 makes a residual branch start as nothing.
            epsilon: added to the variance.

        Raises:
            ValueError: `group_size` does not divide `channels`.
        """
        checks.whole("GroupNorm: group_size", group_size, least=1)
        if channels % group_size:
            raise ValueError(f"GroupNorm: group_size is {group_size}; give a divisor of the {channels} channels")
        self.scale = nnx.Param(jnp.full(channels, scale, jnp.float32))
        self.shift = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.group_size, self.epsilon = group_size, epsilon

    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        checks.shape("GroupNorm: features", features, f"b h w {self.scale.shape[0]}")
        b = features.shape[0]
        values = at_least_float32(features)
        # First over rows and columns per channel, which vectorises, then over the few channels of a group.
        mean = values.mean((1, 2)).reshape(b, -1, self.group_size).mean(-1)
        square = (values**2).mean((1, 2)).reshape(b, -1, self.group_size).mean(-1)
        inverse = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + self.epsilon)
        scale = jnp.repeat(inverse, self.group_size, axis=1) * self.scale[...]
        shift = self.shift[...] - jnp.repeat(mean, self.group_size, axis=1) * scale
        return (values * scale[:, None, None] + shift[:, None, None]).astype(features.dtype)


def make_norm(kind: str, channels: int, *, group_size: int, scale: float = 1.0) -> Affine | GroupNorm:
    """The normalisation layer that the config names.

    Args:
        kind: "affine" (frozen batch norm) or "group".
        channels: of the features.
        group_size: channels of a group; not used by "affine".
        scale: initial value of the scales.

    Raises:
        ValueError: another kind, or a group size that does not divide the channels.

    >>> type(make_norm("group", 8, group_size=4)).__name__
    'GroupNorm'
    """
    checks.one_of("make_norm: kind", kind, ("affine", "group"))
    if kind == "affine":
        return Affine(channels, scale=scale)
    return GroupNorm(channels, group_size=group_size, scale=scale)


def conv_norm(conv: Conv, norm: Affine | GroupNorm, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
    """`norm(conv(features))`, of a convolution without bias (He et al. 2015, section 3.4).

    With the `kernels` "gpu" (see `Compute`) an `Affine` norm's scale is multiplied into the kernel, and its shift is a
    bias: the sum of scaled products is the scaled sum.

    >>> conv, norm = Conv(1, 1, 1, bias=False, rngs=nnx.Rngs(0)), Affine(1, scale=3.0)
    >>> conv.kernel[...] = jnp.full((1, 1, 1, 1), 2.0)
    >>> conv_norm(conv, norm, jnp.ones((1, 1, 1, 1))).item()
    6.0
    """
    if conv.compute.kernels != "gpu" or not isinstance(norm, Affine):
        return norm(conv(features))
    return fusing.add_bias(conv.convolve(features, conv.kernel[...] * norm.scale[...]), norm.shift[...])
