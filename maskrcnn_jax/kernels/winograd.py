"""3x3 convolution with a quarter of the multiplications (Lavin and Gray 2016, section 4: F(4x4, 3x3)).

Four neighbouring outputs y of a 1-D convolution with three weights g depend on six inputs d, and take twelve products.
They are the middle coefficients of a product of polynomials, which six products determine, its values at six points:

    y = A^T ((G g) * (B^T d))

G evaluates the weights at the points; A^T and B^T are the transposed evaluation and interpolation (Winograd 1980, after
Toom and Cook). In two dimensions a tile of 4x4 outputs takes 36 products instead of 144; summed over the channels they
are 36 matrix products. Padding to whole tiles loses some of the gain.

The rounding error is larger than a plain sum's, about five times for 256 channels; at the textbook's points 0, +-1, +-2
it would be twice that of 0, +-3/4, +-3/2 used here (both with infinity).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TILE = 4  # outputs per side, from six inputs
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T [4, 6], G [6, 3] and B^T [6, 6] of the 1-D algorithm."""
    others = [[q for q in POINTS if q != p] for p in POINTS]
    powers = np.vander(POINTS, TILE, increasing=True)
    scale = [np.prod(np.subtract(p, q)) for p, q in zip(POINTS, others, strict=True)]
    evaluate = powers[:, :3] / np.array(scale)[:, None]
    # Lagrange polynomials of the finite points, lowest power first, and the polynomial that is 0 at all of them.
    interpolate = [[*np.poly(q)[::-1], 0.0] for q in others] + [[*np.poly(POINTS)[::-1]]]
    return (
        np.hstack([powers.T, np.eye(TILE)[:, -1:]]),
        np.vstack([evaluate, [0.0, 0.0, 1.0]]),
        np.array(interpolate),
    )


A_T, G, B_T = _matrices()


def is_faster(features: tuple[int, int, int, int], kernel: tuple[int, int, int, int]) -> bool:
    """Whether it is faster for features of shape [b, h, w, i] and a kernel [3, 3, i, o]: not for few tiles or channels,
    where the transformations cost more than they save, nor where a third of the tiles' area is padding.

    >>> is_faster((128, 14, 14, 256), (3, 3, 256, 256)), is_faster((1, 8, 8, 256), (3, 3, 256, 256))
    (True, False)
    """
    b, h, w, _ = features
    tiles = b * -(-h // TILE) * -(-w // TILE)
    return min(kernel[2:]) >= 32 and tiles >= 64 and 2 * tiles * TILE**2 <= 3 * b * h * w


def _transform(matrix: np.ndarray, parts: list[Array], axis: int) -> Array:
    """`matrix` @ `parts`, stacked along a new axis, without multiplications by 0 and 1."""
    rows = []
    for weights in matrix:
        used = [(float(weight), part) for weight, part in zip(weights, parts, strict=True) if weight]
        terms = [part if weight == 1 else part * weight for weight, part in used]
        rows.append(sum(terms[1:], terms[0]))
    return jnp.stack(rows, axis)


def _at_points(matrix: np.ndarray, maps: Float[Array, "b hp wp c"], high: int, wide: int) -> Float[Array, "p n c"]:
    """`matrix` applied to rows and columns of the windows, `high` x `wide` per image, that start every TILE cells:
    [36, n, c], points ordered by (column, row).
    """
    b, _, _, c = maps.shape
    window = range(matrix.shape[1])
    by_rows = _transform(matrix, [maps[:, i : i + TILE * (high - 1) + 1 : TILE] for i in window], 0)
    by_both = _transform(matrix, [by_rows[:, :, :, i : i + TILE * (wide - 1) + 1 : TILE] for i in window], 0)
    return by_both.reshape(len(matrix) ** 2, b * high * wide, c)


def _kernel_matrix(evaluate: np.ndarray, like: Array) -> Float[Array, "p 9"]:
    """`evaluate` [6, 3] for rows and columns of a kernel, as one matrix [36, 9] of the dtype of `like`; points ordered
    by (column, row).
    """
    return jnp.asarray(np.einsum("xj,yi->xyij", evaluate, evaluate).reshape(-1, 9), like.dtype)


def _weights_at_points(evaluate: np.ndarray, kernel: Float[Array, "3 3 i o"]) -> Float[Array, "p i o"]:
    i, o = kernel.shape[2:]
    return (_kernel_matrix(evaluate, kernel) @ kernel.reshape(9, i * o)).reshape(-1, i, o)


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
    by_columns = _transform(A_T, list(outputs), 4)  # [row point, b, high, wide, column in tile, d]
    tiles = _transform(A_T, list(by_columns), 2)  # [b, high, row in tile, wide, column in tile, d]
    return tiles.reshape(b, TILE * high, TILE * wide, outputs.shape[-1])[:, :h, :w]


def conv3x3(features: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """Convolution of stride 1 with one cell of zero padding.

    Each cell of 2x3 counts its neighbours, including itself:

    >>> conv3x3(jnp.ones((1, 2, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].round(4).tolist()
    [[4.0, 6.0, 4.0], [4.0, 6.0, 4.0]]
    """
    return _convolve(features, _weights_at_points(G, kernel), "pni,pio->pno")


def features_gradient(gradient: Float[Array, "b h w o"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w i"]:
    """Gradient of `conv3x3` with respect to its features: a convolution with the kernel rotated by 180 degrees.

    The left output of two depends on both inputs:

    >>> features_gradient(jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1), jnp.ones((3, 3, 1, 1))).round(4).ravel().tolist()
    [1.0, 1.0]
    """
    return _convolve(gradient, _weights_at_points(G[:, ::-1], kernel), "pno,pio->pni")


def kernel_gradient(features: Float[Array, "b h w i"], gradient: Float[Array, "b h w o"]) -> Float[Array, "3 3 i o"]:
    """Gradient of `conv3x3` with respect to its kernel: 36 matrix products over the tiles.

    In a map of one cell only the kernel's centre is used:

    >>> found = kernel_gradient(jnp.full((1, 1, 1, 1), 2.0), jnp.full((1, 1, 1, 1), 3.0))
    >>> (found.reshape(3, 3).round(4) + 0).tolist()
    [[0.0, 0.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 0.0]]
    """
    h, w = gradient.shape[1:3]
    inputs, high, wide = _inputs_at_points(features)
    padded = jnp.pad(gradient, ((0, 0), (0, TILE * high - h), (0, TILE * wide - w), (0, 0)))
    products = jnp.einsum("pni,pno->pio", inputs, _at_points(A_T.T, padded, high, wide))
    p, i, o = products.shape
    return (_kernel_matrix(G, products).T @ products.reshape(p, i * o)).reshape(3, 3, i, o)
