"""Can the paper's network learn at all? One drop, the same draw of anchors and RoIs at every step.

`python -m tests.overfit` is the long version: ResNet101 at 256x256 from random weights, 150 steps. The suite runs a
short one (test_step.py).
"""

import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from crystal.data.images import prepare
from crystal.drops.drop import draw_drop
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth
from maskrcnn_jax.training.optimizer import make_optimizer, make_schedule
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step
from tests.small import quick_rngs


def one_drop(size, slots=8, cells=56):
    """(images, truth, windows) of a batch of one rendered drop with six crystals."""
    drop = draw_drop(3, height=400, width=500, light=0.2, crystals=6)
    image, place = prepare(drop.image, size=size, clahe=True)
    boxes, masks = np.zeros((1, slots, 4), np.float32), np.zeros((1, slots, cells, cells), np.uint8)
    instances = [i for i in drop.instances if not i.ignored][:slots]
    for k, instance in enumerate(instances):
        rows, columns = np.flatnonzero(instance.mask.any(1)), np.flatnonzero(instance.mask.any(0))
        x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        boxes[0, k] = place.to_letterbox(np.array([[x1, y1, x2, y2]], float))[0]
        y = (y1 + (np.arange(cells) + 0.5) / cells * (y2 - y1)).astype(int)
        x = (x1 + (np.arange(cells) + 0.5) / cells * (x2 - x1)).astype(int)
        masks[0, k] = instance.mask[np.ix_(y, x)]
    valid = np.arange(slots)[None] < len(instances)
    truth = GroundTruth(*map(jnp.asarray, (boxes, np.ones((1, slots), np.int32), masks, valid, np.zeros_like(valid))))
    return jnp.asarray(image[None]), truth, jnp.asarray(place.window[None], jnp.float32)


def overfit(config, *, size, steps, learning_rate, report=lambda step, loss: None):
    """The total loss at every step."""
    model = MaskRCNN(config, rngs=quick_rngs())
    schedule = make_schedule(learning_rate, steps=steps, warmup=min(10, steps // 5), decay="cosine")
    optimizer = make_optimizer(schedule, kind="adamw", weight_decay=1e-4)
    graph, state = create_state(model, optimizer)
    images, truth, windows = one_drop(size)
    key = jax.random.key(1)
    step = make_step(graph, optimizer)
    losses = []
    for i in range(steps):
        # The step number is folded into the key: reset, so that every step draws the same samples.
        state, metrics = step(state._replace(step=jnp.zeros((), jnp.int32)), images, truth, windows, key)
        losses.append(float(metrics["total"]))
        report(i, losses[-1])
    return losses


def from_scratch(config):
    """The preset with group norm, which learns from random weights."""
    return dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, norm="group"))


def main():
    """Print the loss as it falls."""
    start = time.monotonic()

    def report(i, loss):
        if i % 10 == 0:
            print(f"step {i}: loss {loss:.4f}, {time.monotonic() - start:.0f} s", flush=True)

    losses = overfit(from_scratch(MaskRCNNConfig.paper()), size=256, steps=150, learning_rate=3e-4, report=report)
    print(f"first {losses[0]:.4f}, last {losses[-1]:.4f}: {losses[-1] / losses[0]:.1%}")
    sys.exit(losses[-1] > 0.2 * losses[0])


if __name__ == "__main__":
    main()
