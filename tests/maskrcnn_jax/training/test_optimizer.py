"""Schedule by its corners, decay by what it spares, clipping by the norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskrcnn_jax.training.optimizer import is_kernel, make_optimizer, make_schedule


def test_cosine_schedule_by_hand():
    rate = make_schedule(1.0, steps=110, warmup=10, decay="cosine")
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60), rate(110)], [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_constant_schedule_by_hand():
    rate = make_schedule(0.2, steps=100, warmup=4, decay="constant")
    np.testing.assert_allclose([rate(0), rate(2), rate(4), rate(99)], [0, 0.1, 0.2, 0.2], atol=1e-7)


PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(3)}
NOTHING = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2), "scale": jnp.zeros(3)}


def test_is_kernel_spares_norms_and_biases():
    assert is_kernel(PARAMS) == {"kernel": True, "bias": False, "scale": False}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weight_decay_moves_kernels_only(kind):
    optimizer = make_optimizer(optax.constant_schedule(0.1), kind=kind, weight_decay=0.5)
    updates, _ = optimizer.update(NOTHING, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["kernel"], -0.05, atol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)
    np.testing.assert_array_equal(updates["scale"], 0)


def test_gradients_are_clipped_by_their_global_norm():
    optimizer = make_optimizer(optax.constant_schedule(1.0), weight_decay=0.0, momentum=0.0, clip_norm=5.0)
    gradients = {"kernel": jnp.full((2, 2), 30.0), "bias": jnp.zeros(2), "scale": jnp.zeros(3)}
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(optax.tree.norm(updates), 5.0, rtol=1e-5)


def test_momentum_adds_up():
    optimizer = make_optimizer(optax.constant_schedule(1.0), weight_decay=0.0, momentum=0.9, clip_norm=100.0)
    gradients = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2), "scale": jnp.zeros(3)}
    _, state = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    updates, _ = optimizer.update(gradients, state, PARAMS)
    np.testing.assert_allclose(updates["kernel"], -1.9, rtol=1e-6)


def test_accumulated_gradients_make_one_update_of_their_mean():
    options = {"weight_decay": 0.5, "clip_norm": 1.0}
    several = make_optimizer(optax.constant_schedule(0.1), accumulate=3, **options)
    single = make_optimizer(optax.constant_schedule(0.1), **options)
    gradients = [jax.tree.map(lambda p, value=value: jnp.full_like(p, value), PARAMS) for value in (1.0, 2.0, 6.0)]
    state = several.init(PARAMS)
    for gradient in gradients[:2]:
        updates, state = several.update(gradient, state, PARAMS)
        assert optax.tree.norm(updates) == 0
    updates, state = several.update(gradients[2], state, PARAMS)
    mean = jax.tree.map(lambda p: jnp.full_like(p, 3.0), PARAMS)
    expected, _ = single.update(mean, single.init(PARAMS), PARAMS)
    for ours, theirs in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_schedule_counts_updates():
    """At a rate of 0 for the first update the first two of four steps change nothing, nor does the third."""
    optimizer = make_optimizer(lambda updates: 0.1 * updates, accumulate=2, weight_decay=0.0)
    gradients, state = jax.tree.map(jnp.ones_like, PARAMS), optimizer.init(PARAMS)
    norms = []
    for _ in range(4):
        updates, state = optimizer.update(gradients, state, PARAMS)
        norms.append(float(optax.tree.norm(updates)))
    assert norms[:3] == [0, 0, 0]
    assert norms[3] > 0
