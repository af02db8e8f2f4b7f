"""From images of any size to outlined instances at their original size.

Each image is prepared as in training (CLAHE at its own resolution, then the letterbox), batches of one fixed shape go
through the compiled network, and boxes and masks come back in the pixels of the original. A batch is prepared in a
thread while the network works on the one before, so three batches of originals are in memory at most, however long the
list is.

Masks are pasted one instance's box at a time and become run lengths at once. A stack [n, height, width] would take
900 MB for 100 instances in a 9-megapixel micrograph; the run lengths take some 100 kB.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from crystal.data.images import Image, prepare
from crystal.data.outlines import encode_patch
from maskrcnn_jax.image.letterbox import Letterbox
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.roi.masks import paste_patch
from maskrcnn_jax.structures import Detections


class Prediction(NamedTuple):
    """The instances of one image, best first.

    Attributes:
        boxes: `[x1, y1, x2, y2]` in continuous pixels of the original image, inside it.
        scores: in [0, 1].
        classes: index into the config's `classes`; never 0, the background.
        rles: a mask each, as compressed COCO RLE (`size` = height, width of the original; `counts` bytes).
    """

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    rles: list[Any]


def to_original(detections: Detections, box: Letterbox) -> Prediction:
    """Bring one image's detections back to its original pixels.

    Args:
        detections: of one image, without the batch dimension, as NumPy arrays, boxes in letterbox pixels.
        box: where the image lay in its letterbox.

    Returns:
        The valid detections that cover at least one pixel.
    """
    height, width = box.original
    valid = np.asarray(detections.valid)
    boxes = np.clip(box.to_original(np.asarray(detections.boxes)[valid]), 0, np.tile([width, height], 2))
    rles, seen = [], np.zeros(len(boxes), bool)
    for i, (own, mask) in enumerate(zip(boxes, np.asarray(detections.masks)[valid], strict=True)):
        patch, top, left = paste_patch(mask, own, height=height, width=width)
        if patch.any():
            seen[i] = True
            rles.append(encode_patch(patch, top, left, height=height, width=width))
    scores, classes = np.asarray(detections.scores)[valid], np.asarray(detections.classes)[valid]
    return Prediction(boxes[seen], scores[seen], classes[seen], rles)


@partial(jax.jit, static_argnums=0)
def _detect(graph: nnx.GraphDef, state: nnx.State, images: jax.Array, windows: jax.Array) -> Detections:
    """The weights are arguments: as constants they would be compiled into the program, and stored twice."""
    return nnx.merge(graph, state).detect(images, windows)


class Predictor:
    """A model ready to be called on images: `predictor(images)` yields a `Prediction` an image, in order.

    Compiles at the first call, for `batch_size` images of the config's size, once for all models of one config; the
    last batch is padded.

    Args:
        model: its config says the images' size and whether they go through CLAHE.
        batch_size: images a forward pass.
    """

    def __init__(self, model: MaskRCNN, *, batch_size: int = 4):
        self.config = model.config
        self.batch_size = batch_size
        twin = nnx.merge(*nnx.split(model))  # without CLAHE in its config, so that the program is the same for both
        twin.config = dataclasses.replace(model.config, image=dataclasses.replace(model.config.image, clahe=False))
        self._graph, self._state = nnx.split(twin)

    def _prepare(self, images: Iterator[Image]) -> tuple[np.ndarray, np.ndarray, list[Letterbox]] | None:
        """The next batch: images [b, h, w, 3], windows [b, 4] and the letterboxes; None at the end."""
        size, clahe = self.config.image.size, self.config.image.clahe
        ready = [prepare(i, size=size, clahe=clahe) for i in itertools.islice(images, self.batch_size)]
        if not ready:
            return None
        batch = np.zeros((self.batch_size, *size, 3), np.uint8)
        windows = np.tile(np.array([0, 0, size[1], size[0]], np.float32), (self.batch_size, 1))
        for slot, (pixels, box) in enumerate(ready):
            batch[slot], windows[slot] = pixels, box.window
        return batch, windows, [box for _, box in ready]

    def __call__(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Predict images one after the other.

        Args:
            images: uint8 RGB of any size. Consumed in another thread, one batch ahead of the results.

        Yields:
            A `Prediction` for each, with every detection over the config's own score threshold.
        """
        source = iter(images)
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as ahead:
            following = ahead.submit(self._prepare, source)
            while (batch := following.result()) is not None:
                following = ahead.submit(self._prepare, source)
                found = jax.device_get(_detect(self._graph, self._state, *batch[:2]))
                for slot, box in enumerate(batch[2]):
                    yield to_original(jax.tree.map(lambda values, slot=slot: values[slot], found), box)
