"""Reading between cells: weights, rounding, types and derivatives; RoIs of all kinds are in test_align.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.roi.bilinear import AxisSamples, Maps, bilinear_pool, neighbours

CELLS = np.float32(np.random.default_rng(0).normal(size=(30, 2)))


def at(*positions):
    """One RoI whose bins have one sample each."""
    position = jnp.array(positions)[None, :, None]
    return AxisSamples(position, jnp.ones(position.shape, bool), jnp.ones((1, 1), position.dtype))


def on_axis(position, length):
    """The two cells and weights of one position."""
    return [
        (int(cell[0, 0, 0]), float(weight[0, 0, 0])) for cell, weight in neighbours(at(position), jnp.array([length]))
    ]


@given(st.integers(-2, 9), st.integers(-4, 4))
def test_a_position_rounded_twice_reads_the_same(cell, steps):
    """Cells of one rounding with the weights of another, around a whole number, give the value of that cell."""
    values = np.float32([3, -8, 5, 1, -2, 9, 4])
    position = np.float32(cell)
    for _ in range(abs(steps)):
        position = np.nextafter(position, np.float32(np.sign(steps) * np.inf))
    exact, moved = on_axis(np.float32(cell), 7), on_axis(position, 7)
    for cells, weights in ((exact, moved), (moved, exact), (moved, moved)):
        value = sum(values[index] * weight for (index, _), (_, weight) in zip(cells, weights, strict=True))
        assert value == pytest.approx(values[min(max(cell, 0), 6)], abs=1e-4)


@given(st.floats(-3, 12, width=32), st.integers(1, 8))
def test_weights_are_those_of_the_distance(position, length):
    """They add up to one, each cell is on the map, and together they say where the position is."""
    pairs = on_axis(position, length)
    assert sum(weight for _, weight in pairs) == pytest.approx(1)
    assert all(0 <= cell < length and weight >= 0 for cell, weight in pairs)
    assert sum(cell * weight for cell, weight in pairs) == pytest.approx(min(max(position, 0), length - 1), abs=1e-5)


def test_derivatives_on_a_cell_and_beside_it():
    """Of the position on the ramp 0, 1, 2, ...: 1, on even and odd cells as well. By JAX: also forward, and twice."""

    def value(position):
        return bilinear_pool(jnp.arange(6.0)[:, None], Maps.same(1, 6, 1), at(0.0), at(position))[0, 0, 0, 0] ** 2

    slope, curvature = jax.jit(jax.vmap(jax.grad(value))), jax.jit(jax.hessian(value))
    np.testing.assert_allclose(slope(jnp.array([1.0, 2.0, 2.3])), [2, 4, 4.6], rtol=1e-6)
    assert curvature(2.3) == pytest.approx(2.0)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_a_sample_that_is_not_a_number_spoils_neither_map_nor_gradient(reduce):
    samples = at(1.0, np.nan, 2.5)
    samples = samples._replace(inside=samples.position >= 0)

    def pooled(cells):
        return bilinear_pool(cells, Maps.same(5, 6, 1), samples, samples, reduce=reduce)

    value, pull = jax.vjp(pooled, CELLS)
    np.testing.assert_array_equal(value[0, 1], 0)
    assert np.isfinite(pull(jnp.ones_like(value))[0]).all()


def test_sums_of_bfloat16_are_float32():
    """A gradient of 1 added 300 times: in bfloat16 it would stay at 256."""
    many = AxisSamples(jnp.zeros((300, 1, 1)), jnp.ones((300, 1, 1), bool), jnp.ones((300, 1)))
    value, pull = jax.vjp(
        lambda cells: bilinear_pool(cells, Maps.same(1, 1, 300), many, many), jnp.ones((1, 1), "bfloat16")
    )
    (gradient,) = pull(jnp.ones_like(value))
    assert (value.dtype, gradient.dtype, float(gradient[0, 0])) == (jnp.float32, jnp.bfloat16, 300.0)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        rows, columns = at(np.float64(1.1)), at(np.float64(2.7))
        value = bilinear_pool(jnp.asarray(CELLS, "float64"), Maps.same(5, 6, 1), rows, columns)
        assert value.dtype == jnp.float64
        cells = np.float64(CELLS).reshape(5, 6, 2)
        upper, lower = (0.3 * cells[row, 2] + 0.7 * cells[row, 3] for row in (1, 2))
        np.testing.assert_allclose(value[0, 0, 0], 0.9 * upper + 0.1 * lower, rtol=1e-12)
