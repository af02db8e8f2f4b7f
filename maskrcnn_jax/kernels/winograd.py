"""3x3 convolution with a quarter of the multiplications (Lavin and Gray 2016, section 4: F(4x4, 3x3)).

Four neighbouring outputs of a 1-D convolution with three weights g see six inputs d, and cost twelve products. They are
the middle coefficients of a product of polynomials, which is also known from its values at six points, six products:

    y = A^T ((G g) * (B^T d))

G evaluates the weights at the points, A^T and B^T are the transposed evaluation and interpolation (Winograd 1980;
Toom and Cook before him). Over rows and columns a tile of 4x4 outputs costs 36 products instead of 144, and summed over
the channels they are 36 matrix products. Padding to whole tiles costs a little of that: of 14x14 a third is left.

All three passes, against XLA's convolutions and `convolution.kernel_gradient`, float32, two cores with AVX2:

| maps, channels | forward | gradient of the features | of the kernel |
| --- | --- | --- | --- |
| 128 of 14x14, 256 | 187 -> 101 ms | 187 -> 101 ms | 204 -> 100 ms |
| 1 of 128x128, 256 | 122 -> 49 ms | 122 -> 51 ms | 141 -> 49 ms |
| 8 of 64x64, 64 | 28 -> 9 ms | 28 -> 10 ms | 29 -> 17 ms |

The price is rounding: at points 0, +-3/4, +-3/2 and infinity the error is 1.2e-6 of the outputs' spread, 5 times that
of the plain sum (256 channels, root mean square); at the textbook's 0, +-1, +-2 it would be twice that.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TILE = 4  # outputs a side; six inputs
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T [4, 6], G [6, 3], B^T [6, 6] of the 1-D algorithm, from its points."""
    others = [[q for q in POINTS if q != p] for p in POINTS]
    powers = np.vander(POINTS, TILE, increasing=True)
    scale = [np.prod(np.subtract(p, q)) for p, q in zip(POINTS, others, strict=True)]
    evaluate = powers[:, :3] / np.array(scale)[:, None]
    # Lagrange's polynomials over the finite points, lowest power first, and the one that vanishes at all of them.
    interpolate = [[*np.poly(q)[::-1], 0.0] for q in others] + [[*np.poly(POINTS)[::-1]]]
    return (
        np.hstack([powers.T, np.eye(TILE)[:, -1:]]),
        np.vstack([evaluate, [0.0, 0.0, 1.0]]),
        np.array(interpolate),
    )


A_T, G, B_T = _matrices()


def pays(features: tuple[int, int, int, int], kernel: tuple[int, int, int, int]) -> bool:
    """Whether it is faster for features of shape [b, h, w, i] and a kernel [3, 3, i, o], measured as above: not for a
    handful of tiles or channels, where the transformations cost more than they save, nor if padding wastes a third.

    >>> pays((128, 14, 14, 256), (3, 3, 256, 256)), pays((1, 8, 8, 256), (3, 3, 256, 256))
    (True, False)
    """
    b, h, w, _ = features
    tiles = b * -(-h // TILE) * -(-w // TILE)
    return min(kernel[2:]) >= 32 and tiles >= 64 and 2 * tiles * TILE**2 <= 3 * b * h * w


def _along(matrix: np.ndarray, parts: list[Array], axis: int) -> Array:
    """The product matrix @ parts, stacked along a new axis, without the products by 0 and 1."""
    rows = []
    for weights in matrix:
        used = [(float(weight), part) for weight, part in zip(weights, parts, strict=True) if weight]
        terms = [part if weight == 1 else part * weight for weight, part in used]
        rows.append(sum(terms[1:], terms[0]))
    return jnp.stack(rows, axis)


def _at_points(matrix: np.ndarray, maps: Float[Array, "b hp wp c"], high: int, wide: int) -> Float[Array, "p n c"]:
    """`matrix` over rows and columns of the windows, `high` x `wide` an image, that start every TILE cells; [36, n, c].

    The points' axes come out as (column, row).
    """
    b, _, _, c = maps.shape
    window = range(matrix.shape[1])
    by_rows = _along(matrix, [maps[:, i : i + TILE * (high - 1) + 1 : TILE] for i in window], 0)
    by_both = _along(matrix, [by_rows[:, :, :, i : i + TILE * (wide - 1) + 1 : TILE] for i in window], 0)
    return by_both.reshape(len(matrix) ** 2, b * high * wide, c)


def _kernel_matrix(evaluate: np.ndarray) -> Float[Array, "p 9"]:
    """`evaluate` [6, 3] over rows and columns of a kernel, as one matrix [36, 9]; points as (column, row)."""
    return jnp.asarray(np.einsum("xj,yi->xyij", evaluate, evaluate).reshape(-1, 9), jnp.float32)


def _weights_at_points(evaluate: np.ndarray, kernel: Float[Array, "3 3 i o"]) -> Float[Array, "p i o"]:
    i, o = kernel.shape[2:]
    return (_kernel_matrix(evaluate) @ kernel.reshape(9, i * o)).reshape(-1, i, o)


def _inputs_at_points(features: Float[Array, "b h w c"]) -> tuple[Float[Array, "p n c"], int, int]:
    h, w = features.shape[1:3]
    high, wide = -(-h // TILE), -(-w // TILE)
    padded = jnp.pad(features, ((0, 0), (1, TILE * high + 1 - h), (1, TILE * wide + 1 - w), (0, 0)))
    return _at_points(B_T, padded, high, wide), high, wide


def _convolve(features: Float[Array, "b h w c"], weights: Array, product: str) -> Float[Array, "b h w d"]:
    b, h, w, _ = features.shape
    inputs, high, wide = _inputs_at_points(features)
    outputs = jnp.einsum(product, inputs, weights)
    outputs = outputs.reshape(6, 6, b, high, wide, outputs.shape[-1])
    by_columns = _along(A_T, list(outputs), 4)  # [row's point, b, high, wide, column in the tile, d]
    tiles = _along(A_T, list(by_columns), 2)  # [b, high, row in the tile, wide, column in the tile, d]
    return tiles.reshape(b, TILE * high, TILE * wide, outputs.shape[-1])[:, :h, :w]


def conv3x3(features: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """Convolution of stride 1, one cell of zeros around the map.

    Each cell of 2x3 counts its neighbours, itself included:

    >>> conv3x3(jnp.ones((1, 2, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].round(4).tolist()
    [[4.0, 6.0, 4.0], [4.0, 6.0, 4.0]]
    """
    return _convolve(features, _weights_at_points(G, kernel), "pni,pio->pno")


def features_gradient(gradient: Float[Array, "b h w o"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w i"]:
    """Gradient of `conv3x3` with respect to its features: the same with the kernel turned by half a circle.

    What the left cell of two gives goes to itself and its right neighbour:

    >>> features_gradient(jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1), jnp.ones((3, 3, 1, 1))).round(4).ravel().tolist()
    [1.0, 1.0]
    """
    return _convolve(gradient, _weights_at_points(G[:, ::-1], kernel), "pno,pio->pni")


def kernel_gradient(features: Float[Array, "b h w i"], gradient: Float[Array, "b h w o"]) -> Float[Array, "3 3 i o"]:
    """Gradient of `conv3x3` with respect to its kernel: the transposes of A^T and G around 36 products over the tiles.

    Of a map of one cell the kernel has seen its centre alone:

    >>> seen = kernel_gradient(jnp.full((1, 1, 1, 1), 2.0), jnp.full((1, 1, 1, 1), 3.0))
    >>> (seen.reshape(3, 3).round(4) + 0).tolist()
    [[0.0, 0.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 0.0]]
    """
    h, w = gradient.shape[1:3]
    inputs, high, wide = _inputs_at_points(features)
    padded = jnp.pad(gradient, ((0, 0), (0, TILE * high - h), (0, TILE * wide - w), (0, 0)))
    products = jnp.einsum("pni,pno->pio", inputs, _at_points(A_T.T, padded, high, wide))
    p, i, o = products.shape
    return (_kernel_matrix(G).T @ products.reshape(p, i * o)).reshape(3, 3, i, o)
