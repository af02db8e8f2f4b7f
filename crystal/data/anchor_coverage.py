"""Which objects the anchors reach, before a day of training shows which are never found (Faster R-CNN, 3.1.1-3.1.2).

The region proposal network moves anchors onto objects, and learns it from anchors that already overlap one: by IoU 0.7
any anchor is a positive, and where an object has no such anchor, only its best one. A needle 4 pixels wide under
anchors of 32 pixels has none that overlaps it by half, and is rarely found. Sizes are pixels of the letterboxed image,
where anchors live; where training shows crops at several zooms, an object is reached at the best of them.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from crystal.data.dataset import Record
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.config import AnchorConfig, MaskRCNNConfig
from maskrcnn_jax.image.letterbox import fit
from maskrcnn_jax.rpn.anchors import pyramid_anchors

HALF, WELL = 0.5, 0.7  # IoU: from which an object counts as reached; from which the RPN takes any anchor as positive
EDGES = (0, 4, 8, 16, 32, 64, 128, np.inf)  # pixels of the shorter side
CHUNK = 128  # objects at once: [128, anchors] is 34 MB for the paper's 65,472
ZOOM_STEP = 2**0.5  # between the zooms that are tried
SAMPLE = 2000  # objects that a change of settings is tried on


class ObjectBoxes(NamedTuple):
    """All objects (no crowds) of some records: (record, instance) by number, and boxes in letterboxed pixels."""

    places: Int[np.ndarray, "n 2"]
    boxes: Float[np.ndarray, "n 4"]

    @property
    def sides(self) -> Float[np.ndarray, "n 2"]:
        """(width, height)."""
        return self.boxes[:, 2:] - self.boxes[:, :2]


class Change(NamedTuple):
    """Another setting, as `--set` takes it, and the share of the objects out of reach that it would reach."""

    setting: str
    share: float


def object_boxes(records: Sequence[Record], size: tuple[int, int]) -> ObjectBoxes:
    """Every object's box in a letterbox of (height, width)."""
    places, boxes = [], []
    for k, record in enumerate(records):
        own = [(j, i.box) for j, i in enumerate(record.instances) if not i.crowd]
        if own:
            place = fit(record.height, record.width, size)
            places += [(k, j) for j, _ in own]
            boxes.append(place.to_letterbox(np.array([box for _, box in own])))
    return ObjectBoxes(np.array(places, int).reshape(-1, 2), np.concatenate([np.zeros((0, 4)), *boxes]))


@jax.jit
def _best_iou(boxes: jax.Array, anchors: jax.Array) -> jax.Array:
    return iou(boxes, anchors).max(1)


def best_iou(boxes: Float[np.ndarray, "n 4"], size: tuple[int, int], anchors: AnchorConfig) -> Float[np.ndarray, " n"]:
    """Each box's IoU with the anchor that overlaps it most, of all anchors of an image of (height, width)."""
    all_anchors = jax.numpy.asarray(
        pyramid_anchors(
            size, strides=anchors.strides, sizes=anchors.sizes, ratios=anchors.ratios, rounded=anchors.rounded
        )
    )
    padded = np.zeros((-(-len(boxes) // CHUNK) * CHUNK, 4), np.float32)  # one shape, one compilation
    padded[: len(boxes)] = boxes
    found = [np.asarray(_best_iou(padded[at : at + CHUNK], all_anchors)) for at in range(0, len(padded), CHUNK)]
    return np.concatenate([np.zeros(0, np.float32), *found])[: len(boxes)].astype(float)


def ladder(zooms: tuple[float, float] | None) -> list[float]:
    """Zooms from the least to the largest, both included, no further apart than ZOOM_STEP.

    >>> [round(zoom, 2) for zoom in ladder((1.0, 2.5))], ladder(None)
    ([1.0, 1.36, 1.84, 2.5], [1.0])
    """
    low, high = zooms or (1.0, 1.0)
    steps = int(np.ceil(np.log(high / low) / np.log(ZOOM_STEP)))
    return [float(zoom) for zoom in np.geomspace(low, high, steps + 1)] if steps else [low]


def best_iou_of_views(boxes: Float[np.ndarray, "n 4"], config: MaskRCNNConfig) -> Float[np.ndarray, " n"]:
    """The same for boxes in a whole image, at the best of the zooms that training shows. A zoom at which an object does
    not fit into a view does not count, but for the least.
    """
    size, best = config.image.size, np.zeros(len(boxes))
    for k, zoom in enumerate(ladder(config.image.zooms)):
        larger = boxes * zoom
        # Crops may show it anywhere; moved by whole strides, it lies in the middle of one as it lies on the grid.
        stride = max(config.anchors.strides)
        middle = (larger[:, :2] + larger[:, 2:]) / 2 - (size[1] / 2, size[0] / 2)
        moved = larger - np.tile(np.round(middle / stride) * stride, 2) if k else larger
        fits = (larger[:, 2:] - larger[:, :2] <= (size[1], size[0])).all(1) | (k == 0)
        best = np.maximum(best, np.where(fits, best_iou(moved, size, config.anchors), 0))
    return best


def by_side(sides: Float[np.ndarray, "n 2"], reached: Bool[np.ndarray, " n"]) -> list[tuple[str, int, float]]:
    """(range of the shorter side, objects, share of them reached) for each range of EDGES that has any."""
    shorter = sides.min(1)
    rows = []
    for low, high in itertools.pairwise(EDGES):
        inside = (shorter >= low) & (shorter < high)
        if inside.any():
            name = f"{low} and more" if high == np.inf else f"{low} to {high}" if low else f"under {high}"
            rows.append((name, int(inside.sum()), float(reached[inside].mean())))
    return rows


def try_changes(missed: Float[np.ndarray, "n 4"], config: MaskRCNNConfig) -> list[Change]:
    """What a larger image, smaller anchors or longer ones would reach of the boxes that no anchor reaches now.

    Tried on an even sample where there are many.
    """
    if not len(missed):
        return []
    boxes = missed[:: -(-len(missed) // SAMPLE)]
    height, width = config.image.size
    anchors, double = config.anchors, (2 * height, 2 * width)
    smaller = tuple(s / 2 for s in anchors.sizes)
    ratios = tuple(sorted({r * f for r in anchors.ratios for f in (0.5, 1, 2)}, reverse=True))
    tried = (
        (f"image.size='{double}'", 2 * boxes, {"image": dataclasses.replace(config.image, size=double)}),
        (f"anchors.sizes='{smaller}'", boxes, {"anchors": dataclasses.replace(anchors, sizes=smaller)}),
        (f"anchors.ratios='{ratios}'", boxes, {"anchors": dataclasses.replace(anchors, ratios=ratios)}),
    )
    return [
        Change(text, float((best_iou_of_views(own, dataclasses.replace(config, **changed)) >= HALF).mean()))
        for text, own, changed in tried
    ]


class Coverage(NamedTuple):
    """What a config's anchors reach of a dataset.

    Attributes:
        records: (split, record); `objects.places` counts through them.
        objects: every object.
        best: IoU with its best anchor, at the best of the zooms that training shows.
        config: whose anchors and image size.
        changes: settings that might reach more.
    """

    records: list[tuple[str, Record]]
    objects: ObjectBoxes
    best: Float[np.ndarray, " n"]
    config: MaskRCNNConfig
    changes: list[Change]

    @property
    def missed(self) -> Int[np.ndarray, " k"]:
        """Indices of the objects that no anchor reaches, the worst first."""
        order = np.argsort(self.best, kind="stable")
        return order[self.best[order] < HALF]

    def sentence(self) -> str:
        """The result in words."""
        height, width = self.config.image.size
        zooms = ladder(self.config.image.zooms)
        how = f"at {width} x {height} pixels with anchors of {', '.join(f'{s:g}' for s in self.config.anchors.sizes)}"
        how += f" and zooms {zooms[0]:g} to {zooms[-1]:g}" if zooms[1:] else ""
        if not len(self.best):
            return "there are no objects, so there is nothing to say about anchors"
        if not len(self.missed):
            return f"every object is reached by an anchor (IoU {HALF:g} or more) {how}"
        count, thin = len(self.missed), self.objects.sides[self.missed].min(1)
        return (
            f"{count:,} of {len(self.best):,} objects ({100 * count / len(self.best):.1f} %) are reached by no anchor "
            f"(IoU {HALF:g} or more) {how}: few of them are likely to be found; their shorter side is "
            f"{np.median(thin):.1f} pixels in the median, in the whole image"
        )


def coverage_of(records: list[tuple[str, Record]], config: MaskRCNNConfig) -> Coverage:
    """Compare all objects of (split, record) pairs with the anchors of a config."""
    objects = object_boxes([record for _, record in records], config.image.size)
    best = best_iou_of_views(objects.boxes, config)
    return Coverage(records, objects, best, config, try_changes(objects.boxes[best < HALF], config))
