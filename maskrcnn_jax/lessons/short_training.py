"""The short training of lesson 10: thirty steps of one drop each, and a few at a rate that is far too high."""

from functools import lru_cache
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from maskrcnn_jax.lessons.drops import scene
from maskrcnn_jax.lessons.network import pretrained
from maskrcnn_jax.structures import GroundTruth
from maskrcnn_jax.training.optimizer import make_optimizer, make_schedule
from maskrcnn_jax.training.state import create_state, to_model
from maskrcnn_jax.training.step import make_step

STEPS, EVERY, TOO_FAST = 30, 10, 4
SLOTS, CELLS = 8, 56


def example(seed: int) -> tuple[jax.Array, GroundTruth, jax.Array]:
    """One drop as a batch: image, objects in slots with masks relative to their boxes, window."""
    drop = scene(seed, light=0.2)
    boxes, masks = np.zeros((1, SLOTS, 4), np.float32), np.zeros((1, SLOTS, CELLS, CELLS), np.uint8)
    for i, (box, mask) in enumerate(zip(drop.boxes[:SLOTS], drop.masks, strict=False)):
        x1, y1, x2, y2 = box.astype(int)
        cell = mask[y1:y2, x1:x2].astype(np.uint8)
        boxes[0, i], masks[0, i] = box, cv2.resize(cell, (CELLS, CELLS), interpolation=cv2.INTER_NEAREST)
    valid = np.arange(SLOTS)[None] < len(drop.boxes)
    of_class, crowd = jnp.ones((1, SLOTS), jnp.int32), jnp.zeros((1, SLOTS), bool)
    truth = GroundTruth(jnp.asarray(boxes), of_class, jnp.asarray(masks), jnp.asarray(valid), crowd)
    return jnp.asarray(drop.image[None]), truth, jnp.array([[0.0, 0.0, 320.0, 256.0]])


@lru_cache(maxsize=1)
def trained() -> tuple[list[dict[str, float]], dict[int, Any]]:
    """Thirty steps at a sound rate, then four at one that is far too high: metrics of each step, weights every ten."""
    sound = make_schedule(1.5e-3, steps=STEPS, warmup=3)
    schedule = optax.join_schedules([sound, optax.constant_schedule(30.0)], [STEPS])
    optimizer = make_optimizer(schedule, kind="adamw")
    graph, state = create_state(pretrained(), optimizer, part="heads")
    # Placed on the device as a step's own result is: otherwise the second step compiles again.
    state = jax.device_put(state, jax.devices()[0])
    step, metrics, weights = make_step(graph, optimizer), [], {}
    for number in range(STEPS + TOO_FAST + 1):
        if number % EVERY == 0 and number <= STEPS:
            copies = jax.tree.map(jnp.copy, (state.params, state.frozen))
            weights[number] = nnx.split(to_model(graph, *copies))[1]
        image, truth, window = example(100 + number)
        state, values = step(state, image, truth, window, jax.random.key(0))
        metrics.append({name: float(value) for name, value in values.items()})
    return metrics, weights
