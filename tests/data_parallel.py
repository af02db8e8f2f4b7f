"""Five steps on 1, 2 and 4 devices, in a process of its own: the number of devices is fixed when JAX starts.

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
    """(images, truth, windows): the first image is empty, so that devices differ in how much they have to learn."""
    images, truth = small_batch(seed, b=BATCH)
    truth = truth._replace(valid=truth.valid.at[0].set(False))
    return images, truth, jnp.tile(jnp.array([0.0, 0.0, 64.0, 64.0]), (BATCH, 1))


def train(devices):
    """What 5 steps give: metrics of each, the parameters, and how the compiled step talks."""
    mesh, optimizer = data_mesh(jax.devices()[:devices]), make_optimizer(optax.constant_schedule(1e-2))
    graph, state = create_state(small_model(), optimizer, part="stage4")
    state, step, key = replicate(state, mesh), make_step(graph, optimizer, mesh), jax.random.key(0)
    before = jax.tree.map(np.array, state.frozen)
    program = step.lower(state, *shard_batch(batch(0), mesh), key).compile().as_text()
    metrics = []
    for seed in range(STEPS):
        state, now = step(state, *shard_batch(batch(seed), mesh), key)
        metrics.append({name: float(value) for name, value in now.items()})
    state = on_one_device(state)
    moved = [(a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, state.frozen)), strict=True)]
    report = {
        "metrics": metrics,
        "programs": step._cache_size(),
        "frozen_parameters_moved": int(sum(moved)),
        "collectives": sorted(set(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", program))),
    }
    return report, jax.tree.map(np.array, state.params)


def difference(a, b):
    """The largest difference of any tensor, in units of that tensor's largest value."""
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


if __name__ == "__main__":
    alone_report, alone = train(1)
    reports = {1: alone_report}
    for devices in (2, 4):
        reports[devices], params = train(devices)
        reports[devices]["difference"] = difference(params, alone)
    print(json.dumps(reports))
