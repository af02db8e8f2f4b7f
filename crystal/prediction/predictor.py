"""From images of any size to outlined instances at their original size.

Each image is equalised at its own resolution if the model was trained so, and cut into views: the whole of it, and
tiles where a zoom asks for them. Every view is fitted into the network's input as in training, and batches of one fixed
shape, filled across views and images, go through the compiled network. Boxes and masks come back in the pixels of the
original; of one object found in several views the best is kept. While the network works on a batch, the one after is
prepared in a thread and what was found in the one before is brought back; only the views in those three batches and the
image being cut are in memory.

Masks are pasted one instance's box at a time and become run lengths at once. A stack [n, height, width] would take
900 MB for 100 instances in a 9-megapixel micrograph; the run lengths take some 100 kB.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from crystal.data.classes import is_drop
from crystal.data.images import Image, apply_clahe, prepare
from crystal.data.outlines import encode_patch, largest_part
from crystal.prediction.context import in_context
from crystal.prediction.drop_region import outside_drops
from crystal.prediction.merging import merge
from crystal.prediction.zooms import WHOLE, Zoom, trust, zooms_of
from maskrcnn_jax.image.letterbox import Letterbox
from maskrcnn_jax.image.tiles import View, owns, views
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.roi.masks import maskness, paste_patch
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.training.mesh import DATA, data_mesh, replicate, shard_batch


class Prediction(NamedTuple):
    """The instances of one image, best first.

    Attributes:
        boxes: `[x1, y1, x2, y2]` in continuous pixels of the original image, inside it.
        scores: in [0, 1]; the network's, times the square of how sure it is of the mask (`maskness`) where that is no
            drop; reduced in tiles if the network was trained on whole images (`zooms.trust`); and stretched by what
            else the image shows (`context.in_context`).
        classes: index into the config's `classes`; never 0, the background.
        rles: a mask each, as compressed COCO RLE (`size` = height, width of the original; `counts` bytes).
        zooms: of the view in which each was found; 1 is the whole image.
        complete_from: a view holds as many detections as the config has slots; where all were filled, others of a lower
            score than this may be missing. 0 where none is.
    """

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    rles: list[Any]
    zooms: Float[np.ndarray, " n"]
    complete_from: float = 0.0


def to_original(
    detections: Detections,
    box: Letterbox,
    *,
    view: View,
    height: int,
    width: int,
    trust: float = 1.0,
    whole_only: Collection[int] = (),
) -> Prediction:
    """Bring the detections of one view back to the pixels of its image.

    Args:
        detections: of one view, without the batch dimension, as NumPy arrays, boxes in letterbox pixels.
        box: where the view lay in its letterbox.
        view: the part of the image that it shows.
        height: of the image, in pixels.
        width: of the image.
        trust: what scores are multiplied by.
        whole_only: classes of objects so large that tiles show parts of them; they count in the whole image alone.

    Returns:
        The valid detections that cover at least one pixel and that the view owns (`maskrcnn_jax.image.tiles.owns`), of
        each mask the largest connected part, and their scores times the square of `maskness` for what is no drop.
    """
    valid, corners, masks = np.asarray(detections.valid), view.box, np.asarray(detections.masks)
    scores, drops = np.asarray(detections.scores) * trust, np.isin(detections.classes, list(whole_only))
    boxes = box.to_original(np.asarray(detections.boxes)) + np.tile(corners[:2], 2)
    boxes = np.clip(boxes, np.tile(corners[:2], 2), np.tile(corners[2:], 2))
    meant = valid if view.zoom == 1 else valid & ~drops
    chosen = np.flatnonzero(meant & owns(view, boxes, height=height, width=width))
    rles, seen = [], []
    for i in chosen:
        patch, top, left = paste_patch(masks[i], boxes[i], height=height, width=width)
        if patch.any():
            seen.append(i)
            # What a mask has beside its object are specks of a neighbour, which would make a crystal too long.
            rles.append(encode_patch(largest_part(patch), top, left, height=height, width=width))
    zooms = np.full(len(seen), view.zoom, float)
    complete_from = float(scores.min()) if valid.all() else 0.0
    scores = scores * np.where(drops, 1.0, maskness(masks) ** 2)
    return Prediction(boxes[seen], scores[seen], np.asarray(detections.classes)[seen], rles, zooms, complete_from)


class Joined(NamedTuple):
    """What was found in the views of one image, and what of it remains.

    Attributes:
        found: of each view, in the pixels of the image, with scores that compare with those of `prediction`.
        kept: indices into the detections of all views, one view after the other, without duplicates; best first.
        prediction: the detections kept.
    """

    found: list[Prediction]
    kept: Int[np.ndarray, " k"]
    prediction: Prediction


def joined(found: list[Prediction]) -> Joined:
    """The predictions of an image's views as one, without duplicates."""
    boxes, scores, classes, zooms = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("boxes", "scores", "classes", "zooms")
    )
    rles = [rle for one in found for rle in one.rles]
    origin = np.repeat(np.arange(len(found)), [len(one.scores) for one in found])
    kept, scores = merge(rles, scores, classes, origin)
    complete_from = max(one.complete_from for one in found)
    rest = Prediction(boxes[kept], scores, classes[kept], [rles[i] for i in kept], zooms[kept], complete_from)
    return Joined(found, kept, rest)


def weighed(joined: Joined, *, drops: Collection[int] = ()) -> Joined:
    """With the scores of each class as the others of the picture make them (`context.in_context`).

    Args:
        joined: what was found in an image.
        drops: classes that are drops. Their scores stay, and what lies outside a drop says nothing about the others.
    """
    kept = joined.prediction
    liquid = np.isin(kept.classes, list(drops))
    sure = liquid & (kept.scores >= 0.5)
    within = ~outside_drops(kept.rles, [kept.rles[i] for i in np.flatnonzero(sure)])
    best = {
        c: float(kept.scores[within & (kept.classes == c)].max(initial=0)) for c in np.unique(kept.classes[~liquid])
    }

    def in_picture(one: Prediction) -> Prediction:
        scores = one.scores.copy()
        for c, highest in best.items():
            scores[one.classes == c] = in_context(one.scores[one.classes == c], highest)
        limits = [float(in_context(np.array([one.complete_from]), highest)[0]) for highest in best.values()]
        return one._replace(scores=scores, complete_from=max(limits, default=0.0))

    kept = in_picture(kept)
    order = np.argsort(-kept.scores, kind="stable")
    prediction = kept._replace(
        boxes=kept.boxes[order],
        scores=kept.scores[order],
        classes=kept.classes[order],
        rles=[kept.rles[i] for i in order],
        zooms=kept.zooms[order],
    )
    return Joined([in_picture(one) for one in joined.found], joined.kept[order], prediction)


class _Whole(NamedTuple):
    """An image whose views are on their way: its size, their number, and what was found in those that are back."""

    height: int
    width: int
    views: int
    found: list[Prediction]


@partial(jax.jit, static_argnums=(0, 1))
def _detect(graph: nnx.GraphDef, mesh: Mesh, state: nnx.State, images: jax.Array, windows: jax.Array) -> Detections:
    """Each device has its part of the batch to itself.

    The weights are arguments: as constants they would be compiled into the program, and stored twice.
    """

    def part(state: nnx.State, images: jax.Array, windows: jax.Array) -> Detections:
        return nnx.merge(graph, state).detect(images, windows)

    # Nothing is exchanged, so there is nothing for `check_vma` to check.
    shares = {"in_specs": (P(), P(DATA), P(DATA)), "out_specs": P(DATA), "check_vma": False}
    return jax.shard_map(part, mesh=mesh, **shares)(state, images, windows)


class Predictor:
    """A model ready to be called on images: `predictor(images)` yields a `Prediction` an image, in order.

    Compiles at the first call, for `batch_size` views of the config's size, once for all models of one config; the
    last batch is padded. All devices of this process share the work.

    Args:
        model: its config says the views' size and whether images go through CLAHE.
        batch_size: views a forward pass on each device; None for 1 on CPUs, where more took longer, and 4 elsewhere.
        zoom: the zooms to look at, the first of them 1, or "auto" (`crystal.prediction.zooms`). The whole image alone
            if not given.
    """

    def __init__(self, model: MaskRCNN, *, batch_size: int | None = None, zoom: Zoom = WHOLE):
        self.config = model.config
        self._mesh = data_mesh(jax.local_devices())
        on_cpu = jax.local_devices()[0].platform == "cpu"
        self.batch_size = (batch_size or (1 if on_cpu else 4)) * self._mesh.size
        self.zoom: Zoom = zoom
        twin = nnx.merge(*nnx.split(model))  # without CLAHE in its config, so that the program is the same for both
        twin.config = dataclasses.replace(model.config, image=dataclasses.replace(model.config.image, clahe=False))
        self._graph, state = nnx.split(twin)
        self._state = replicate(state, self._mesh)

    def fingerprint(self) -> str:
        """Tells weights apart, wherever they lie."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self._state):
            digest.update(np.asarray(jax.device_get(leaf)).tobytes())
        return digest.hexdigest()[:16]

    def views(self, height: int, width: int) -> list[View]:
        """The views of an image of this size that the network looks at."""
        size = self.config.image.size
        return views(height, width, size, zooms=zooms_of(height, width, size, self.zoom))

    def _cut(self, images: Iterable[Image]) -> Iterator[tuple[np.ndarray, Letterbox, View, _Whole]]:
        """The views of each image, ready for the network."""
        for image in images:
            source = apply_clahe(image) if self.config.image.clahe else image
            grid = self.views(*image.shape[:2])
            whole = _Whole(image.shape[0], image.shape[1], len(grid), [])
            for view in grid:
                part = source[view.top : view.top + view.height, view.left : view.left + view.width]
                yield *prepare(part, size=self.config.image.size, clahe=False), view, whole

    def _batch(self, ready: Iterator[Any]) -> tuple[np.ndarray, np.ndarray, list[Any]] | None:
        """The next batch: views [b, h, w, 3], windows [b, 4], and what each of them is; None at the end."""
        size, chosen = self.config.image.size, list(itertools.islice(ready, self.batch_size))
        if not chosen:
            return None
        batch = np.zeros((self.batch_size, *size, 3), np.uint8)
        windows = np.tile(np.array([0, 0, size[1], size[0]], np.float32), (self.batch_size, 1))
        for slot, (pixels, box, *_) in enumerate(chosen):
            batch[slot], windows[slot] = pixels, box.window
        return batch, windows, [what for _, *what in chosen]

    def __call__(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Predict images one after the other.

        Args:
            images: uint8 RGB of any size. Consumed in another thread, two batches ahead of the results.

        Yields:
            A `Prediction` for each, with every detection over the config's own score threshold.
        """
        return (one.prediction for one in self.by_view(images))

    def _detected(self, images: Iterable[Image]) -> Iterator[tuple[list[Any], Detections]]:
        """Batch by batch what its views are and what was found in them, while the network works on the batch after."""
        ready, before = self._cut(images), None
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as ahead:
            following = ahead.submit(self._batch, ready)
            while (batch := following.result()) is not None:
                following = ahead.submit(self._batch, ready)
                views_and_windows = shard_batch(batch[:2], self._mesh)
                running = batch[2], _detect(self._graph, self._mesh, self._state, *views_and_windows)
                if before is not None:
                    yield before
                before = running
        if before is not None:
            yield before

    def by_view(self, images: Iterable[Image]) -> Iterator[Joined]:
        """As a call, but with what was found in each of the `views`."""
        drops = [index for index, (_, name) in enumerate(self.config.classes) if is_drop(name)]
        for shown, detections in self._detected(images):
            found = jax.device_get(detections)
            for slot, (box, view, whole) in enumerate(shown):
                own = jax.tree.map(lambda values, slot=slot: values[slot], found)
                weight = trust(view.zoom, self.config.image.zooms)
                place = {"view": view, "height": whole.height, "width": whole.width}
                whole.found.append(to_original(own, box, **place, trust=weight, whole_only=drops))
                if len(whole.found) == whole.views:
                    yield weighed(joined(whole.found), drops=drops)
