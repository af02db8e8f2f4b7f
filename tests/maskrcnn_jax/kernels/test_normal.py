"""Random weights: independent, of the deviation asked for, in any shape, with few programs."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.kernels.normal import normal


@given(st.lists(st.integers(0, 5), max_size=4))
def test_any_shape(shape):
    drawn = normal(jax.random.key(0), tuple(shape), 2.0)
    assert drawn.shape == tuple(shape)
    assert drawn.dtype == np.float32


def test_mean_deviation_and_independence():
    """Within four standard errors, of 20,000 numbers."""
    drawn = np.asarray(normal(jax.random.key(3), (5, 4, 1000), 0.5), np.float64)
    assert abs(drawn.mean()) < 4 * 0.5 / np.sqrt(drawn.size)
    assert drawn.std() == pytest.approx(0.5, rel=4 / np.sqrt(2 * drawn.size))
    rows = np.corrcoef(drawn.reshape(20, 1000)) - np.eye(20)
    assert np.abs(rows).max() < 5 / np.sqrt(1000)


def test_a_key_is_a_draw():
    first, again, other = (np.asarray(normal(jax.random.key(seed), (3, 4), 1.0)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_inside_jit_too():
    key = jax.random.key(1)
    compiled = jax.jit(lambda key: normal(key, (3, 5), 0.1))(key)
    np.testing.assert_allclose(compiled, normal(key, (3, 5), 0.1), rtol=1e-6)
    assert jax.eval_shape(lambda: normal(jax.random.key(0), (2, 7), 1.0)).shape == (2, 7)


def test_shapes_share_the_generators_programs():
    """The first length traces the generator, of the other ones from 17 to 64 none does."""
    traced = []

    def listener(event, duration_secs, **kwargs):
        traced.append(str(kwargs.get("fun_name")))

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        normal(jax.random.key(0), (64,), 1.0)
        assert any("normal" in name for name in traced)
        traced.clear()
        for size in range(17, 64):
            normal(jax.random.key(0), (size,), 1.0)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert any("_reshaped" in name for name in traced)
    assert not any("normal" in name for name in traced)
