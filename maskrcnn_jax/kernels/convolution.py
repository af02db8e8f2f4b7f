"""A convolution that is fast on CPUs, above all in its gradients; `kernels="cpu"` in the config chooses it.

XLA computes the gradient with respect to the kernel as a convolution with a window as large as the map, which is slow
on CPUs. Here it is a matrix product with unrolled patches (Chellapilla et al. 2006) over all positions n of the map,

    dK[(i, j, c), o] = sum_n patches[n, (i, j, c)] * gradient[n, o],

for a few rows or a few small images at a time, so that the patches (9 times the features for 3x3) stay in the cache.

3x3 convolutions with enough tiles and channels use `winograd` in all passes. On other devices XLA's own are used.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from maskrcnn_jax.kernels import winograd

Padding = tuple[tuple[int, int], tuple[int, int]]
PATCH_BYTES = 8 << 20  # maximum of one tile's patches
UNTILED_BYTES = 12 << 20  # up to this size a single product is as fast, and compiles faster than a loop
LAYOUT = ("NHWC", "HWIO", "NHWC")


def plain_conv2d(
    features: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int, padding: Padding
) -> Float[Array, "b hh ww o"]:
    """The reference: XLA's convolution, or a matrix product for 1x1, with XLA's gradients.

    One row of three cells, a 1x3 kernel of 1, 10, 100, and one cell of padding on the left and right:

    >>> row, kernel = jnp.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1)
    >>> plain_conv2d(row, kernel, 1, ((0, 0), (1, 1))).ravel().tolist()
    [100.0, 210.0, 21.0]
    """
    if kernel.shape[:2] == (1, 1) and stride == 1 and not any(sum(padding, ())):
        return features @ kernel[0, 0]  # faster on CPUs
    return lax.conv_general_dilated(features, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


def _of_sums(features: Array) -> jnp.dtype:
    """The type of sums over a map: float32 at least."""
    return jnp.promote_types(features.dtype, jnp.float32)


def _tile(images: int, rows: int, row_bytes: int) -> tuple[int, int]:
    """(images, rows) per tile: the largest divisors of both whose patches fit into PATCH_BYTES, at least one row;
    several images only with all their rows.
    """

    def largest_divisor(count: int, size: int) -> int:
        return max(t for t in range(1, count + 1) if count % t == 0 and (t == 1 or t * size <= PATCH_BYTES))

    tall = largest_divisor(rows, row_bytes)
    return (largest_divisor(images, rows * row_bytes) if tall == rows else 1), tall


def _patches_product(
    window: Float[Array, "b hp wp i"], gradient: Float[Array, "b hh ww o"], kernel_size: tuple[int, int], stride: int
) -> Float[Array, "o n"]:
    """gradient^T @ patches, n = (row, column, channel) of the kernel; `window` is its padded input."""
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
    # gradient^T @ patches is faster in XLA's CPU matmul than patches^T @ gradient.
    return lax.dot_general(
        gradient.reshape(-1, o),
        patches.reshape(-1, patches.shape[-1]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=_of_sums(window),
    )


def kernel_gradient(
    features: Float[Array, "b h w i"],
    gradient: Float[Array, "b hh ww o"],
    kernel_size: tuple[int, int],
    stride: int,
    padding: Padding,
) -> Float[Array, "kh kw i o"]:
    """Gradient of `plain_conv2d` with respect to its kernel, tile by tile; sums in float32 at least.

    Each kernel entry sums the row 0, 1, 2, shifted by its offset, with zeros from the padding:

    >>> row, gradient = jnp.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), jnp.ones((1, 1, 3, 1))
    >>> kernel_gradient(row, gradient, (1, 3), 1, ((0, 0), (1, 1))).ravel().tolist()
    [1.0, 3.0, 3.0]
    """
    kh, kw = kernel_size
    b, rows, columns, o = gradient.shape
    c = features.shape[-1]
    padded = jnp.pad(features, ((0, 0), *padding, (0, 0)))
    row_bytes = columns * kh * kw * c * features.dtype.itemsize
    if b * rows * row_bytes <= UNTILED_BYTES:
        total = _patches_product(padded, gradient, kernel_size, stride)
    else:
        deep, tall = _tile(b, rows, row_bytes)
        high = (tall - 1) * stride + kh  # padded rows read by one tile

        def add_tile(total, index):
            image, row = index // (rows // tall) * deep, index % (rows // tall) * tall
            window = lax.dynamic_slice(padded, (image, row * stride, 0, 0), (deep, high, padded.shape[2], c))
            part = lax.dynamic_slice(gradient, (image, row, 0, 0), (deep, tall, columns, o))
            return total + _patches_product(window, part, kernel_size, stride), None

        tiles = b // deep * (rows // tall)
        total, _ = lax.scan(add_tile, jnp.zeros((o, kh * kw * c), _of_sums(features)), jnp.arange(tiles))
    return total.reshape(o, kh, kw, c).transpose(1, 2, 3, 0)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(
    features: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int, padding: Padding
) -> Float[Array, "b hh ww o"]:
    """A `plain_conv2d` that is faster on CPUs; larger rounding errors where it uses `winograd`.

    Its gradients are written by hand (`custom_vjp`), so that forward-mode derivatives (`jvp`, `hessian`) are refused.

    >>> row, kernel = jnp.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), jnp.ones((1, 3, 1, 1))
    >>> jax.grad(lambda kernel: conv2d(row, kernel, 1, ((0, 0), (1, 1))).sum())(kernel).ravel().tolist()
    [1.0, 3.0, 3.0]
    """

    def by_xla(features, kernel):
        return plain_conv2d(features, kernel, stride, padding)

    # A branch even where both sides are equal: XLA fuses differently without it, and ResNet101's step is slower.
    on_cpu = winograd.conv3x3 if _uses_winograd(features, kernel, stride, padding) else by_xla
    return lax.platform_dependent(features, kernel, cpu=on_cpu, default=by_xla)


def _uses_winograd(features, kernel, stride, padding) -> bool:
    possible = kernel.shape[:2] == (3, 3) and stride == 1 and padding == ((1, 1), (1, 1))
    float32 = features.dtype == kernel.dtype == jnp.float32
    return possible and float32 and winograd.is_faster(features.shape, kernel.shape)


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

    if _uses_winograd(features, kernel, stride, padding):
        features_on_cpu, kernel_on_cpu = winograd.features_gradient, winograd.kernel_gradient
    else:
        features_on_cpu, kernel_on_cpu = features_by_xla, kernel_by_tiles
    return (
        lax.platform_dependent(gradient, kernel, cpu=features_on_cpu, default=features_by_xla),
        lax.platform_dependent(features, gradient, cpu=kernel_on_cpu, default=kernel_by_xla),
    )


conv2d.defvjp(_forward, _backward)
