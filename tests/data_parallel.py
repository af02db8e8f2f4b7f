"""Five steps on one device and on two, in a process of its own: the number of devices is fixed when JAX starts.

`python tests/data_parallel.py` prints what `test_mesh.py` looks at, as JSON.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maskrcnn_jax.training.mesh import data_mesh, on_one_device, replicate, shard_batch
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step
from tests.small import small_batch, small_model

STEPS, BATCH = 5, 4


def batch(seed):
    """(images, truth, windows): the first image is empty, in every other batch the whole half of the first device, so
    that devices differ in how much they have to learn.
    """
    images, truth = small_batch(seed, b=BATCH)
    truth = truth._replace(valid=truth.valid.at[: 1 + seed % 2].set(False))
    return images, truth, jnp.tile(jnp.array([0.0, 0.0, 64.0, 64.0]), (BATCH, 1))


def train(devices):
    """What 5 steps give: metrics of each, the parameters, and how the compiled step talks."""
    mesh, optimizer = data_mesh(jax.devices()[:devices]), make_optimizer(optax.constant_schedule(1e-2))
    graph, state = create_state(small_model(), optimizer, part="stage4")
    state, key = replicate(state, mesh), jax.random.key(0)
    before = jax.tree.map(np.array, state.frozen)
    # One program for all steps: it refuses a state or batch that is placed in another way.
    step = make_step(graph, optimizer, mesh).lower(state, *shard_batch(batch(0), mesh), key).compile()
    metrics = []
    for seed in range(STEPS):
        state, now = step(state, *shard_batch(batch(seed), mesh), key)
        metrics.append({name: float(value) for name, value in now.items()})
    state = on_one_device(state)
    moved = [(a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, state.frozen)), strict=True)]
    report = {
        "metrics": metrics,
        "frozen_parameters_moved": int(sum(moved)),
        "collectives": sorted(set(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", step.as_text()))),
    }
    return report, jax.tree.map(np.array, state.params)


def difference(a, b):
    """The largest difference of any tensor, in units of that tensor's largest value."""
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


if __name__ == "__main__":
    (alone_report, alone), (report, params) = train(1), train(2)
    print(json.dumps({1: alone_report, 2: report | {"difference": difference(params, alone)}}))
