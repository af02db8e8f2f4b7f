"""Winograd's convolution against the plain one: its algebra, its three passes, its rounding, and where it is used."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.kernels import winograd
from maskrcnn_jax.kernels.convolution import conv2d, plain_conv2d
from tests import oracles
from tests.traced import assert_jit_changes_nothing

AROUND = ((1, 1), (1, 1))
# batch, height, width, in, out: whole tiles, cut ones, less than one, one cell, no map at all
SHAPES = [(2, 8, 12, 3, 4), (3, 14, 14, 2, 5), (1, 9, 6, 4, 3), (2, 3, 2, 3, 2), (1, 1, 1, 2, 2), (0, 7, 7, 3, 2)]


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@jax.jit
def three_passes(features, kernel, gradient):
    return (
        winograd.conv3x3(features, kernel),
        winograd.features_gradient(gradient, kernel),
        winograd.kernel_gradient(features, gradient),
    )


@given(st.lists(st.integers(-8, 8), min_size=9, max_size=9))
def test_the_1d_algorithm_is_a_correlation(numbers):
    inputs, weights = np.array(numbers[:6], float), np.array(numbers[6:], float)
    ours = winograd.A_T @ ((winograd.G @ weights) * (winograd.B_T @ inputs))
    np.testing.assert_allclose(ours, np.correlate(inputs, weights), atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_passes_equal_those_of_the_plain_convolution(shape):
    b, h, w, i, o = shape
    features, kernel, gradient = random(b, h, w, i), random(3, 3, i, o, seed=1), random(b, h, w, o, seed=2)

    @jax.jit
    def plain(features, kernel, gradient):
        out, backward = jax.vjp(lambda f, k: plain_conv2d(f, k, 1, AROUND), features, kernel)
        return out, *backward(gradient)

    ours, theirs = three_passes(features, kernel, gradient), plain(features, kernel, gradient)
    for our, their, atol in zip(ours, theirs, (1e-4, 1e-4, 2e-4), strict=True):
        np.testing.assert_allclose(our, their, atol=atol)
    for image in range(b):
        expected = oracles.conv2d(np.asarray(features[image]), np.asarray(kernel), 1, AROUND)
        np.testing.assert_allclose(ours[0][image], expected, atol=1e-4)


def test_gradients_are_the_transposes():
    """By autodiff of the forward pass, which nobody wrote by hand."""
    features, kernel, gradient = random(2, 9, 5, 3), random(3, 3, 3, 2, seed=1), random(2, 9, 5, 2, seed=2)
    by_autodiff = jax.jit(lambda *both: jax.vjp(winograd.conv3x3, *both)[1](gradient))(features, kernel)
    _, for_features, for_kernel = three_passes(features, kernel, gradient)
    np.testing.assert_allclose(for_features, by_autodiff[0], atol=1e-4)
    np.testing.assert_allclose(for_kernel, by_autodiff[1], atol=2e-4)


def test_rounding_is_what_the_docstring_says():
    """Against float64, relative to the spread of the outputs: 1.2e-6, and 0.2e-6 for the plain sum."""
    features, kernel = jax.nn.relu(random(1, 32, 32, 256)), random(3, 3, 256, 64, seed=1) / 48
    exact = oracles.conv2d(np.asarray(features[0], np.float64), np.asarray(kernel, np.float64), 1, AROUND)
    error = np.asarray(jax.jit(winograd.conv3x3)(features, kernel)[0], np.float64) - exact
    assert np.sqrt((error**2).mean()) / exact.std() < 2e-6
    assert np.abs(error).max() / exact.std() < 3e-5


def test_a_tile_alone_sees_its_own_inputs():
    """What lies outside of a map's tile, and in other maps of the batch, changes no bit."""
    features, kernel = random(3, 12, 12, 4), random(3, 3, 4, 4, seed=1)
    convolve = jax.jit(winograd.conv3x3)
    changed = features.at[:, 5:].set(1e6).at[1:].set(-1e6)
    np.testing.assert_array_equal(convolve(changed, kernel)[0, :4], convolve(features, kernel)[0, :4])


@pytest.mark.parametrize(
    ("features", "kernel", "pays"),
    [
        ((128, 14, 14, 256), (3, 3, 256, 256), True),  # mask head
        ((1, 128, 128, 256), (3, 3, 256, 256), True),  # P2
        ((2, 16, 16, 64), (3, 3, 64, 64), False),  # 32 tiles
        ((64, 5, 5, 128), (3, 3, 128, 128), False),  # 8x8 cells of tiles for 5x5
        ((1, 128, 128, 256), (3, 3, 256, 18), False),  # few channels
        ((0, 14, 14, 256), (3, 3, 256, 256), False),
    ],
)
def test_where_it_pays(features, kernel, pays):
    assert winograd.is_faster(features, kernel) == pays


def test_the_convolution_goes_this_way_where_it_pays_and_only_there():
    def convolutions(features, kernel, stride=1, padding=AROUND):
        run = jax.jit(jax.value_and_grad(lambda f, k: jnp.sum(conv2d(f, k, stride, padding)), (0, 1)))
        return run.lower(features, kernel).as_text().count("stablehlo.convolution")

    if jax.default_backend() != "cpu":
        pytest.skip("other devices keep XLA's convolutions")
    features, kernel = random(2, 32, 32, 32), random(3, 3, 32, 32)
    assert convolutions(features, kernel) == 0
    assert convolutions(features[:1, :28], kernel) > 0  # 56 tiles
    assert convolutions(features, kernel, stride=2) > 0
    assert convolutions(features, kernel, padding=((0, 0), (0, 0))) > 0
    assert convolutions(features.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)) > 0


def test_jit_changes_nothing_and_one_trace_serves_all():
    cases = [(random(2, 32, 32, 32, seed=s), random(3, 3, 32, 32, seed=s + 1)) for s in (0, 2)]
    convolve = partial(conv2d, stride=1, padding=AROUND)
    assert_jit_changes_nothing(convolve, *cases, atol=1e-4)
    # Of fixed gradients: a function of the output would carry the forward pass' rounding over into them.
    gradient = random(2, 32, 32, 32, seed=9)
    assert_jit_changes_nothing(lambda *both: jax.vjp(convolve, *both)[1](gradient), *cases, atol=1e-3)
