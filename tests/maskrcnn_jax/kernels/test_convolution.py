"""The fast kernel gradient against XLA's own, and against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.kernels import convolution
from maskrcnn_jax.kernels.convolution import conv2d, kernel_gradient, plain_conv2d
from tests import oracles
from tests.traced import assert_jit_changes_nothing

CASES = [  # batch, height, width, in, out, kernel, stride, padding
    (2, 8, 10, 3, 4, 3, 1, (1, 1)),
    (1, 7, 9, 2, 5, 3, 2, (1, 1)),
    (2, 12, 8, 3, 2, 7, 2, (3, 3)),
    (2, 6, 6, 4, 3, 1, 1, (0, 0)),
    (2, 6, 8, 4, 3, 1, 2, (0, 0)),
    (1, 6, 6, 2, 2, 3, 2, (0, 1)),
]


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("one_piece", "patches"), [(convolution.UNTILED_BYTES, 1), (0, 1), (0, 8000), (0, 1 << 20)])
def test_gradients_equal_those_of_xla(case, one_piece, patches, monkeypatch):
    """All in one piece, and every way of cutting: tiles of one row, of a few rows, of several images."""
    monkeypatch.setattr(convolution, "UNTILED_BYTES", one_piece)
    monkeypatch.setattr(convolution, "PATCH_BYTES", patches)
    b, h, w, i, o, k, stride, pad = case
    padding = (pad, pad)
    features, kernel = random(b, h, w, i), random(k, k, i, o, seed=1)
    out = plain_conv2d(features, kernel, stride, padding)
    weights = random(*out.shape, seed=2)

    def loss(convolve):
        return lambda f, k: (convolve(f, k, stride, padding) * weights).sum()

    ours = jax.jit(jax.grad(loss(conv2d), (0, 1)))(features, kernel)
    theirs = jax.jit(jax.grad(loss(plain_conv2d), (0, 1)))(features, kernel)
    np.testing.assert_array_equal(conv2d(features, kernel, stride, padding), out)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-4)


def test_a_tile_is_as_large_as_fits():
    """Rows of half the room: of three one, since two do not divide them; of a sixth: all, and two of four images."""
    assert convolution._tile(4, 3, convolution.PATCH_BYTES // 2) == (1, 1)
    assert convolution._tile(4, 4, convolution.PATCH_BYTES // 2) == (1, 2)
    assert convolution._tile(4, 3, convolution.PATCH_BYTES // 6) == (2, 3)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(case):
    b, h, w, i, o, k, stride, pad = case
    features, kernel = random(b, h, w, i), random(k, k, i, o, seed=1)
    ours = jax.jit(conv2d, static_argnums=(2, 3))(features, kernel, stride, (pad, pad))
    for image in range(b):
        expected = oracles.conv2d(np.asarray(features[image]), np.asarray(kernel), stride, (pad, pad))
        np.testing.assert_allclose(ours[image], expected, atol=1e-4)


def test_jit_changes_nothing_and_one_trace_serves_all():
    cases = [(random(2, 6, 5, 3, seed=s), random(3, 3, 3, 2, seed=s + 1)) for s in (0, 2)]
    padding = ((1, 1), (1, 1))
    assert_jit_changes_nothing(lambda f, k: conv2d(f, k, 1, padding), *cases, atol=1e-5)
    by_kernel = jax.grad(lambda k, f: jnp.square(conv2d(f, k, 1, padding)).sum())
    assert_jit_changes_nothing(lambda f, k: by_kernel(k, f), *cases, rtol=1e-4, atol=1e-4)


def test_kernel_gradient_equals_a_loop_over_positions():
    features, gradient = np.asarray(random(2, 5, 6, 3)), np.asarray(random(2, 5, 6, 2, seed=1))
    padded = np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((3, 3, 3, 2))
    for image in range(2):
        for y in range(5):
            for x in range(6):
                for row in range(3):
                    for column in range(3):
                        expected[row, column] += np.outer(padded[image, y + row, x + column], gradient[image, y, x])
    ours = kernel_gradient(jnp.asarray(features), jnp.asarray(gradient), (3, 3), 1, ((1, 1), (1, 1)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_half_precision_keeps_its_dtype_and_sums_in_float32():
    features = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    gradient = jax.grad(lambda k: jnp.sum(conv2d(features, k, 1, ((0, 0), (0, 0))), dtype=jnp.float32))(kernel)
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[0, 0, 0, 0]) == 4096  # bfloat16 sums would stop at 256
