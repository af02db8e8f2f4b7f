"""The work that is timed: torchvision's Mask R-CNN, ResNet101 with FPN, on made scenes.

Everything is trained; each image has 512 RoIs for the box head and 128 positive ones for the mask head, which a trained
network would find and a random one does not: so copies of the ground truth, moved by a tenth of their sides, join the
proposals.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from crystal.prediction.trained_model import for_this_machine
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step

COPIES = 60  # of each object among the proposals
MASK_CELLS = 112  # a side of the ground truth's masks
LEARNING_RATE = 1e-7  # random weights would diverge


class Scene(NamedTuple):
    """Ellipses on a smooth, noisy ground."""

    image: np.ndarray  # [size, size, 3], 0..255
    boxes: np.ndarray  # [n, 4]
    classes: np.ndarray  # [n]
    masks: np.ndarray  # [n, size, size], 0 or 1


def config(size: int = 512, *, depth: int = 101, dtype: str = "float32", platform: str | None = None) -> MaskRCNNConfig:
    """Torchvision's, with copies of the ground truth among the proposals; computed as crystal does."""
    base = MaskRCNNConfig.torchvision_coco(depth=depth)
    targets = dataclasses.replace(base.roi.targets, truth_copies=COPIES, truth_jitter=0.1)
    return dataclasses.replace(
        for_this_machine(base, platform=platform),
        image=dataclasses.replace(base.image, size=(size, size)),
        roi=dataclasses.replace(base.roi, targets=targets),
        compute_dtype=dtype,
    )


def make_scene(seed: int, *, objects: int = 5, size: int = 512) -> Scene:
    """One image with `objects` ellipses."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / size
    image = np.full((size, size, 3), 128.0) + rng.normal(0, 12, (size, size, 3))
    for u, v, phase in rng.uniform(0.5, 9, (4, 3)):
        image += 25 * np.sin(6.28 * (u * columns + v * rows) + phase)[..., None]
    boxes, masks = [], []
    for _ in range(objects):
        y, x = rng.uniform(0.25, 0.75, 2)
        half_height, half_width = rng.uniform(0.05, 0.22, 2)
        mask = ((rows - y) / half_height) ** 2 + ((columns - x) / half_width) ** 2 <= 1
        image[mask] = 0.4 * image[mask] + 0.6 * rng.uniform(0, 255, 3)
        ys, xs = np.nonzero(mask)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        masks.append(mask)
    classes = rng.integers(1, 81, objects)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), np.array(boxes, np.float32), classes, np.array(masks))


def as_batch(scenes: list[Scene]) -> tuple[jax.Array, GroundTruth]:
    """(images, truth) on the device."""
    cells = (np.arange(MASK_CELLS) + 0.5) / MASK_CELLS

    def inside_box(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
        x = (box[0] + cells * (box[2] - box[0])).astype(int)
        y = (box[1] + cells * (box[3] - box[1])).astype(int)
        return mask[np.ix_(y, x)].astype(np.uint8)

    masks = [[inside_box(mask, box) for mask, box in zip(s.masks, s.boxes, strict=True)] for s in scenes]
    filled = np.ones((len(scenes), len(scenes[0].boxes)), bool)
    truth = GroundTruth(
        jnp.asarray(np.stack([s.boxes for s in scenes])),
        jnp.asarray(np.stack([s.classes for s in scenes]), jnp.int32),
        jnp.asarray(np.array(masks)),
        jnp.asarray(filled),
        jnp.asarray(~filled),
    )
    return jnp.asarray(np.stack([s.image for s in scenes])), truth


class Training:
    """The jitted step and its state; a call takes one step and returns its metrics.

    Attributes:
        step: `step(state, *data) -> (state, metrics)`, jitted.
        data: images, truth, windows and key.
    """

    def __init__(self, model: MaskRCNN, images: jax.Array, truth: GroundTruth):
        optimizer = make_optimizer(optax.constant_schedule(LEARNING_RATE))
        # Norms are frozen, as in torchvision. The state holds copies, since the step donates it.
        graph, self.state = create_state(model, optimizer, norms=False)
        b, h, w, _ = images.shape
        windows = jnp.tile(jnp.array([0.0, 0.0, w, h]), (b, 1))
        self.step = self._run = make_step(graph, optimizer)
        self.data = images, truth, windows, jax.random.key(0)

    def compile(self) -> jax.stages.Compiled:
        """The program that calls use from now on."""
        self._run = self.step.lower(self.state, *self.data).compile()
        return self._run

    def __call__(self) -> dict[str, Any]:
        self.state, metrics = self._run(self.state, *self.data)
        return metrics


class Detecting:
    """The jitted forward pass to detections; a call returns those of the batch."""

    def __init__(self, model: MaskRCNN, images: jax.Array):
        graph, self.weights = nnx.split(model)
        self.images = images
        self.detect = self._run = jax.jit(lambda weights, images: nnx.merge(graph, weights).detect(images))

    def compile(self) -> jax.stages.Compiled:
        """The program that calls use from now on."""
        self._run = self.detect.lower(self.weights, self.images).compile()
        return self._run

    def __call__(self) -> Any:
        return self._run(self.weights, self.images)
