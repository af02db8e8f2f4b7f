"""A convolution that is fast on CPUs, in its gradients above all.

XLA writes the gradient with respect to the kernel as a convolution with a window as large as the map, which its CPU
backend computes at a quarter of the speed of the forward pass. Here it is what it is on paper (convolution as a matrix
product over unrolled patches: Chellapilla et al. 2006), a product over all positions n of the map,

    dK[(i, j, c), o] = sum_n patches[n, (i, j, c)] * gradient[n, o],

taken a few rows or a few small images at a time, so that the patches (9 times the features for 3x3) stay in the
processor's cache. For 8 maps of 64x80 with 64 channels on one core: 26 GFLOP/s by XLA, 83 this way, 98 forward; for 128
maps of 14x14 with 256 on two cores: 67, 188 and 196.

A 3x3 convolution of many tiles and channels goes by `winograd`, all of it. Other devices keep XLA's own.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from maskrcnn_jax.kernels import winograd

Padding = tuple[tuple[int, int], tuple[int, int]]
PATCH_BYTES = 8 << 20  # patches of one tile; with 1 MiB the sums over tiles cost a quarter more for 256 channels
ONE_PIECE_BYTES = 12 << 20  # up to here one product costs no more, and a loop would cost compile time
LAYOUT = ("NHWC", "HWIO", "NHWC")


def plain_conv2d(
    features: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int, padding: Padding
) -> Float[Array, "b hh ww o"]:
    """The reference: XLA's convolution, or a matrix product for 1x1, with XLA's gradients.

    One row of three cells, a 1x3 kernel of 1, 10, 100, a cell of padding left and right:

    >>> row, kernel = jnp.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1)
    >>> plain_conv2d(row, kernel, 1, ((0, 0), (1, 1))).ravel().tolist()
    [100.0, 210.0, 21.0]
    """
    if kernel.shape[:2] == (1, 1) and stride == 1 and not any(sum(padding, ())):
        return features @ kernel[0, 0]  # about twice as fast on CPUs
    return lax.conv_general_dilated(features, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


def _tile(images: int, rows: int, bytes_a_row: int) -> tuple[int, int]:
    """(images, rows) of a tile: the largest divisors of both whose patches fit PATCH_BYTES; one row at least. Several
    images only if each is in it with all its rows.
    """

    def largest(count: int, size: int) -> int:
        return max(t for t in range(1, count + 1) if count % t == 0 and (t == 1 or t * size <= PATCH_BYTES))

    tall = largest(rows, bytes_a_row)
    return (largest(images, rows * bytes_a_row) if tall == rows else 1), tall


def _patches_product(
    window: Float[Array, "b hp wp i"], gradient: Float[Array, "b hh ww o"], kernel_size: tuple[int, int], stride: int
) -> Float[Array, "o n"]:
    """Gradient^T patches, n = (row, column, channel) of the kernel; `window` is what it sees, padding included."""
    rows, columns, o = gradient.shape[1:]
    kh, kw = kernel_size
    patches = jnp.concatenate(
        [
            window[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
            for i in range(kh)
            for j in range(kw)
        ],
        -1,
    )
    # gradient^T patches rather than the other way round: twice as fast in XLA's CPU matmul.
    return lax.dot_general(
        gradient.reshape(-1, o),
        patches.reshape(-1, patches.shape[-1]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


def kernel_gradient(
    features: Float[Array, "b h w i"],
    gradient: Float[Array, "b hh ww o"],
    kernel_size: tuple[int, int],
    stride: int,
    padding: Padding,
) -> Float[Array, "kh kw i o"]:
    """Gradient of `plain_conv2d` with respect to its kernel, tile by tile; sums in float32.

    Each entry of the kernel has seen the row 0, 1, 2 but for what its offset pushes out:

    >>> row, gradient = jnp.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), jnp.ones((1, 1, 3, 1))
    >>> kernel_gradient(row, gradient, (1, 3), 1, ((0, 0), (1, 1))).ravel().tolist()
    [1.0, 3.0, 3.0]
    """
    kh, kw = kernel_size
    b, rows, columns, o = gradient.shape
    c = features.shape[-1]
    padded = jnp.pad(features, ((0, 0), *padding, (0, 0)))
    bytes_a_row = columns * kh * kw * c * features.dtype.itemsize
    if b * rows * bytes_a_row <= ONE_PIECE_BYTES:
        total = _patches_product(padded, gradient, kernel_size, stride)
    else:
        deep, tall = _tile(b, rows, bytes_a_row)
        high = (tall - 1) * stride + kh  # padded rows that one tile reads

        def add_tile(total, index):
            image, row = index // (rows // tall) * deep, index % (rows // tall) * tall
            window = lax.dynamic_slice(padded, (image, row * stride, 0, 0), (deep, high, padded.shape[2], c))
            part = lax.dynamic_slice(gradient, (image, row, 0, 0), (deep, tall, columns, o))
            return total + _patches_product(window, part, kernel_size, stride), None

        tiles = b // deep * (rows // tall)
        total, _ = lax.scan(add_tile, jnp.zeros((o, kh * kw * c), jnp.float32), jnp.arange(tiles))
    return total.reshape(o, kh, kw, c).transpose(1, 2, 3, 0)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(
    features: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int, padding: Padding
) -> Float[Array, "b hh ww o"]:
    """`plain_conv2d`, faster on CPUs; with the rounding of `winograd` where it goes that way.

    >>> row, kernel = jnp.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), jnp.ones((1, 3, 1, 1))
    >>> jax.grad(lambda kernel: conv2d(row, kernel, 1, ((0, 0), (1, 1))).sum())(kernel).ravel().tolist()
    [1.0, 3.0, 3.0]
    """

    def by_xla(features, kernel):
        return plain_conv2d(features, kernel, stride, padding)

    # A branch even where both are alike: without it XLA fuses otherwise, and ResNet101's step takes 5.0 s, not 4.7 s.
    on_cpu = winograd.conv3x3 if _by_winograd(features, kernel, stride, padding) else by_xla
    return lax.platform_dependent(features, kernel, cpu=on_cpu, default=by_xla)


def _by_winograd(features, kernel, stride, padding) -> bool:
    as_it_must = kernel.shape[:2] == (3, 3) and stride == 1 and padding == ((1, 1), (1, 1))
    in_float32 = features.dtype == kernel.dtype == jnp.float32
    return as_it_must and in_float32 and winograd.pays(features.shape, kernel.shape)


def _forward(features, kernel, stride, padding):
    return conv2d(features, kernel, stride, padding), (features, kernel)


def _backward(stride, padding, saved, gradient):
    features, kernel = saved

    def features_by_xla(gradient, kernel):
        return jax.linear_transpose(lambda f: plain_conv2d(f, kernel, stride, padding), features)(gradient)[0]

    def kernel_by_xla(features, gradient):
        return jax.linear_transpose(lambda k: plain_conv2d(features, k, stride, padding), kernel)(gradient)[0]

    def kernel_by_tiles(features, gradient):
        return kernel_gradient(features, gradient, kernel.shape[:2], stride, padding).astype(kernel.dtype)

    if _by_winograd(features, kernel, stride, padding):
        features_on_cpu, kernel_on_cpu = winograd.features_gradient, winograd.kernel_gradient
    else:
        features_on_cpu, kernel_on_cpu = features_by_xla, kernel_by_tiles
    return (
        lax.platform_dependent(gradient, kernel, cpu=features_on_cpu, default=features_by_xla),
        lax.platform_dependent(features, gradient, cpu=kernel_on_cpu, default=kernel_by_xla),
    )


conv2d.defvjp(_forward, _backward)
