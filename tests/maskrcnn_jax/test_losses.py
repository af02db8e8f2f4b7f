import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskrcnn_jax.losses import masked_mean, smooth_l1
from tests import oracles, strategies
from tests.traced import assert_jit_changes_nothing

numbers = hnp.arrays(np.float32, 9, elements=st.floats(-100, 100, width=32))
mean = jax.jit(masked_mean)
smooth = jax.jit(smooth_l1, static_argnames="beta")


@given(numbers, strategies.flags(9), st.sampled_from([np.nan, np.inf, 1e30]))
def test_masked_mean_never_sees_what_is_masked(values, valid, garbage):
    expected = values[valid].astype(float).sum() / max(valid.sum(), 1)
    assert float(mean(values, valid)) == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert mean(values, valid) == mean(np.where(valid, values, np.float32(garbage)), valid)


def test_masked_mean_by_hand():
    values, valid = jnp.array([2.0, 4.0, 9.0]), jnp.array([True, True, False])
    assert masked_mean(values, valid) == 3
    assert masked_mean(values, valid, 4.0) == 1.5
    assert masked_mean(values, valid, 0.25) == 6  # the denominator is at least 1
    nothing = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(lambda v: masked_mean(v, nothing))(values)
    assert value == 0
    assert gradient.tolist() == [0, 0, 0]
    assert masked_mean(jnp.zeros((0, 2)), jnp.zeros((0, 2), bool)) == 0


def test_jit_changes_nothing_and_one_trace_serves_all():
    values = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    for valid in (values[0] > 0, values[0] > 9):
        assert_jit_changes_nothing(masked_mean, (values[0], valid), (values[1], ~valid), rtol=1e-6)
    for beta in (1.0, 1 / 9, 0.0):
        assert_jit_changes_nothing(lambda d, b=beta: smooth_l1(d, b), (values[0],), (values[1],), rtol=1e-6)


@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
@given(numbers)
def test_smooth_l1_equals_the_oracle(beta, difference):
    expected = [oracles.smooth_l1(d, beta) if beta else abs(d) for d in difference]
    np.testing.assert_allclose(smooth(difference, beta=beta), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(smooth(difference, beta=beta), smooth(-difference, beta=beta))


@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_smooth_l1_has_no_kink_at_beta(beta):
    for sign in (-1, 1):
        below, above = (jax.grad(lambda d: smooth_l1(d, beta))(sign * beta * (1 + e)) for e in (-1e-4, 1e-4))
        assert float(below) == pytest.approx(float(above), abs=1e-3)
        assert float(above) == sign
    slopes = jax.grad(lambda d: smooth_l1(d, beta).sum())(jnp.array([-50.0, 0.0, 50.0]))
    assert slopes.tolist() == [-1, 0, 1]
