"""The average against a loop in NumPy, and the swap that shows it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskrcnn_jax.training.averaging import average_weights, swap_average
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import TrainState
from tests import oracles


def walk(optimizer, params, updates):
    """(params and state after these updates, the params after each)."""
    state, seen = optimizer.init(params), []
    for update in updates:
        change, state = optimizer.update({"kernel": jnp.asarray(update)}, state, params)
        params = optax.apply_updates(params, change)
        seen.append(np.asarray(params["kernel"]))
    return TrainState(params, {}, state, jnp.array(len(updates))), seen


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.999])
def test_average_equals_the_loop_and_changes_no_update(decay):
    rng = np.random.default_rng(0)
    first, gradients = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(20, 2, 3)).astype(np.float32)
    params = {"kernel": jnp.asarray(first)}
    state, seen = walk(optax.chain(optax.sgd(0.1), average_weights(decay)), params, gradients)
    alone, alike = walk(optax.sgd(0.1), params, gradients)
    np.testing.assert_array_equal(seen, alike)
    average = swap_average(state).params["kernel"]
    np.testing.assert_allclose(average, oracles.moving_average(first, seen, decay), rtol=1e-5, atol=1e-6)
    assert swap_average(alone) is alone


def test_constant_weights_are_their_own_average():
    params = {"kernel": jnp.full((2, 2), 0.1)}
    state, _ = walk(optax.chain(optax.sgd(1.0), average_weights(0.9)), params, np.zeros((5, 2, 2), np.float32))
    np.testing.assert_allclose(swap_average(state).params["kernel"], 0.1, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_swapping_twice_gives_the_state_back(accumulate):
    """Wherever in the optimizer's state the average is."""
    optimizer = make_optimizer(optax.constant_schedule(0.1), accumulate=accumulate, average_decay=0.9)
    state, seen = walk(optimizer, {"kernel": jnp.ones((2, 2))}, np.ones((4, 2, 2), np.float32))
    swapped = swap_average(state)
    assert jax.tree.structure(swapped) == jax.tree.structure(state)
    assert not np.array_equal(swapped.params["kernel"], seen[-1])
    np.testing.assert_array_equal(optax.tree.get(swapped.optimizer, "average")["kernel"], seen[-1])
    for ours, theirs in zip(*map(jax.tree.leaves, (swap_average(swapped), state)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_average_counts_updates_not_steps():
    """Two of accumulated pairs of gradients move it as two of single ones do."""
    gradients = np.ones((2, 1, 2), np.float32) * np.array([1, 3])[:, None, None].astype(np.float32)
    options = {"weight_decay": 0.0, "average_decay": 0.9}
    single, _ = walk(make_optimizer(optax.constant_schedule(0.1), **options), {"kernel": jnp.ones((1, 2))}, gradients)
    pairs = make_optimizer(optax.constant_schedule(0.1), accumulate=2, **options)
    double, _ = walk(pairs, {"kernel": jnp.ones((1, 2))}, np.repeat(gradients, 2, axis=0))
    for ours, theirs in zip(*(swap_average(s).params["kernel"] for s in (single, double)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
