"""The short training of lesson 10: a few dozen steps of one drop each, and a few at a learning rate that is far too
high.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from maskrcnn_jax.lessons.drops import scene
from maskrcnn_jax.lessons.network import pretrained
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.roi.box_head import BoxHead
from maskrcnn_jax.roi.mask_head import MaskHead
from maskrcnn_jax.structures import GroundTruth
from maskrcnn_jax.training.optimizer import make_optimizer, make_schedule
from maskrcnn_jax.training.state import create_state, to_model
from maskrcnn_jax.training.step import make_step

STEPS, EVERY, TOO_FAST, RATE, WARMUP = 40, 10, 4, 1.5e-3, 3
HELD_OUT = tuple(range(4, 9))  # drops that are never trained on
SLOTS, CELLS = 8, 56

Metrics = dict[str, float]


class Run(NamedTuple):
    """What the training recorded."""

    steps: list[Metrics]  # of each step, on the drop of that step
    held_out: dict[int, Metrics]  # by the number of steps made: the losses, their mean over the held-out drops
    weights: dict[int, Any]  # by the number of steps made


_runs: dict[tuple[int, int], Run] = {}


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


def with_new_outputs() -> MaskRCNN:
    """The pretrained network with new output layers of box head and mask head, as `replace_classes` initialises them
    where the number of classes changes.
    """
    model = nnx.clone(pretrained())
    config, k = model.config, model.config.num_classes
    box_head = BoxHead(config.fpn_channels, config.roi.box_head, num_classes=k, rngs=nnx.Rngs(0))
    mask_head = MaskHead(config.fpn_channels, config.roi.mask_head, num_classes=k, rngs=nnx.Rngs(1))
    model.box_head.classes, model.box_head.deltas = box_head.classes, box_head.deltas
    model.mask_head.masks = mask_head.masks
    return model


def trained(on_step: Callable[[str], Any] = lambda text: None) -> Run:
    """Train once, STEPS steps at RATE and then a few at one that is far too high; later calls return the same run.

    Args:
        on_step: is called after each step with a sentence on it, 1 + STEPS + TOO_FAST times in all.
    """
    if (STEPS, EVERY) not in _runs:
        _runs[STEPS, EVERY] = train(on_step)
    return _runs[STEPS, EVERY]


def train(on_step: Callable[[str], Any]) -> Run:
    """A new run; see `trained`."""
    sound = make_schedule(RATE, steps=STEPS, warmup=WARMUP)
    schedule = optax.join_schedules([sound, optax.constant_schedule(30.0)], [STEPS])
    optimizer = make_optimizer(schedule, kind="adamw")
    graph, state = create_state(with_new_outputs(), optimizer, part="heads")
    # Placed on the device as a step's own result is: otherwise the second step compiles again.
    state = jax.device_put(state, jax.devices()[0])
    step, run = make_step(graph, optimizer), Run([], {}, {})

    def losses(state, seed):
        """Of a drop, without training on it: the new state is dropped."""
        return step(jax.tree.map(jnp.copy, state), *example(seed), jax.random.key(0))[1]

    for number in range(STEPS + TOO_FAST + 1):
        if number % EVERY == 0 and number <= STEPS:
            copies = jax.tree.map(jnp.copy, (state.params, state.frozen))
            run.weights[number] = nnx.split(to_model(graph, *copies))[1]
            of_drops = jax.device_get([losses(state, seed) for seed in HELD_OUT])
            run.held_out[number] = {name: float(np.mean([one[name] for one in of_drops])) for name in of_drops[0]}
        state, values = step(state, *example(100 + number), jax.random.key(number))
        run.steps.append({name: float(value) for name, value in values.items()})
        on_step(f"step {number + 1}, total loss {run.steps[-1]['total']:.2f}")
    return run
