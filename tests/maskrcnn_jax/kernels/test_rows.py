"""Weighted sums of rows against the reference, forward and backward, in one loop and in several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.kernels.rows import MAX_UNROLLED, plain_weighted_rows, weighted_rows


def some_case(k, m, seed=0, n=11, c=3):
    rng = np.random.default_rng(seed)
    table, weight = rng.normal(size=(n, c)), rng.normal(size=(k, m))
    return jnp.asarray(table, jnp.float32), jnp.asarray(rng.integers(0, n, (k, m))), jnp.asarray(weight, jnp.float32)


def value_and_gradients(function, case):
    table, index, weight = case
    pull = jnp.asarray(np.random.default_rng(9).normal(size=(index.shape[1], table.shape[1])), jnp.float32)

    def loss(table, weight):
        out = function(table, index, weight)
        return (out * pull).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(table, weight)
    return out, *gradients


@pytest.mark.parametrize("k", [1, 4, MAX_UNROLLED, MAX_UNROLLED + 1, 3 * MAX_UNROLLED])
def test_equals_the_reference_with_both_gradients(k):
    case = some_case(k, 7, seed=k)
    both = (value_and_gradients(function, case) for function in (weighted_rows, plain_weighted_rows))
    for ours, plain in zip(*both, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_no_rows_asked_for():
    out, for_table, for_weight = value_and_gradients(weighted_rows, some_case(4, 0))
    assert out.shape == (0, 3)
    assert for_weight.shape == (4, 0)
    assert not for_table.any()


def test_sums_of_a_bfloat16_table_are_float32():
    """A gradient of 1 added 300 times: in bfloat16 it would stay at 256."""
    table = jnp.ones((1, 1), jnp.bfloat16)
    index, weight = jnp.zeros((1, 300), jnp.int32), jnp.ones((1, 300))
    assert weighted_rows(table, index, weight).dtype == jnp.float32
    gradient = jax.grad(lambda table: weighted_rows(table, index, weight).sum())(table)
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[0, 0]) == 300.0


def test_vmap_over_tables():
    cases = [some_case(4, 5, seed) for seed in (1, 2)]
    batched = jax.vmap(weighted_rows)(*(jnp.stack(parts) for parts in zip(*cases, strict=True)))
    for one, case in zip(batched, cases, strict=True):
        np.testing.assert_allclose(one, plain_weighted_rows(*case), atol=1e-6)
