"""Training examples one by one: an image read and letterboxed with its objects, augmented, put into a batch.

The three steps that `loader.py` gives to Grain: `Examples` (by position in the split), `Vary` and `Collate`, classes so
that they can be sent to worker processes. Decoding and CLAHE at the original resolution cost far more than a small
network's step, so letterboxed images are cached as long as they fit, their masks as bits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt8

from crystal.data.augment import Augmentation, View, augment
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Instance, Record, box_mask
from crystal.data.images import prepare, read_image


class Batch(NamedTuple):
    """Images with their objects in g slots (`maskrcnn_jax.structures` says what the letters mean), all NumPy.

    Boxes and windows are pixels of the letterboxed image; masks are 0 or 1, relative to their boxes; unfilled slots
    are 0.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    windows: Float32[np.ndarray, "b 4"]
    boxes: Float32[np.ndarray, "b g 4"]
    classes: Int32[np.ndarray, "b g"]
    masks: UInt8[np.ndarray, "b g m m"]
    valid: Bool[np.ndarray, "b g"]
    crowd: Bool[np.ndarray, "b g"]
    image_ids: Int64[np.ndarray, " b"]


class Example(NamedTuple):
    """One prepared image; masks as bits while it lies in the cache."""

    image: np.ndarray
    window: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray
    crowd: np.ndarray
    image_id: int

    @property
    def bytes(self) -> int:
        return self.image.nbytes + self.masks.nbytes + 1000  # for the rest


def _areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _halves(boxes: Float[np.ndarray, "n 4"]) -> list[np.ndarray]:
    """The boxes in two groups, side by side or one above the other, the larger of whose enclosing boxes is smallest."""
    best: tuple[float, list[np.ndarray]] = (np.inf, [])
    for axis in (0, 1):
        ordered = boxes[np.argsort(boxes[:, axis] + boxes[:, axis + 2], kind="stable")]
        # Enclosing boxes of the first k and of all but the first k.
        low, high = np.minimum.accumulate(ordered[:, :2]), np.maximum.accumulate(ordered[:, 2:])
        back_low, back_high = np.minimum.accumulate(ordered[::-1, :2]), np.maximum.accumulate(ordered[::-1, 2:])
        larger = np.maximum((high - low).prod(1)[:-1], (back_high - back_low).prod(1)[-2::-1])
        k = int(np.argmin(larger))
        if larger[k] < best[0]:
            best = float(larger[k]), [ordered[: k + 1], ordered[k + 1 :]]
    return best[1]


def enclosing_boxes(boxes: Float[np.ndarray, "n 4"], most: int) -> Float[np.ndarray, "k 4"]:
    """At most `most` boxes that cover all of these: themselves, or else the enclosing boxes of groups of neighbours.

    The group of the largest enclosing box is divided again and again, so that no region grows much beyond its share of
    the image: an anchor is ignored by its IoU with a region, which would be tiny for a small anchor in a huge one.

    >>> enclosing_boxes(np.array([[0.0, 0, 2, 2], [50, 50, 52, 52], [3, 0, 5, 2]]), 2).tolist()
    [[0.0, 0.0, 5.0, 2.0], [50.0, 50.0, 52.0, 52.0]]
    """
    if len(boxes) <= most:
        return boxes
    groups = [boxes]
    while len(groups) < most:
        sizes = [(g[:, 2:].max(0) - g[:, :2].min(0)).prod() if len(g) > 1 else -1.0 for g in groups]
        groups += _halves(groups.pop(int(np.argmax(sizes))))
    return np.array([[*g[:, :2].min(0), *g[:, 2:].max(0)] for g in groups])


def fill_slots(record: Record, slots: int) -> list[Instance]:
    """At most `slots` instances, the largest boxes first: nothing that is outlined is left to count as background.

    Where there are more, the largest objects fill three quarters of the slots. The other objects and the crowds become
    crowds in the slots that are left, several in one box where they are too many (`enclosing_boxes`). In training, an
    anchor or RoI that overlaps a crowd (by an IoU of `crowd_iou`, 0.001) is no negative; it may still be a positive.
    """
    objects, ignored = ([i for i in record.instances if i.crowd == crowd] for crowd in (False, True))
    if len(objects) + len(ignored) > slots:
        largest = np.argsort(-_areas(np.array([i.box for i in objects]).reshape(-1, 4)), kind="stable")
        used = largest[: slots - max(slots // 4, 1)]
        rest = [*ignored, *(objects[k] for k in largest[len(used) :])]
        objects = [objects[k] for k in used]
        regions = enclosing_boxes(np.array([i.box for i in rest]), slots - len(objects)).tolist()
        ignored = [rest[0]._replace(box=tuple(box), crowd=True) for box in regions]
    found = [*objects, *ignored]
    order = np.argsort(-_areas(np.array([i.box for i in found]).reshape(-1, 4)), kind="stable")
    return [found[k] for k in order]


def read_record_image(record: Record) -> UInt8[np.ndarray, "h w 3"]:
    """The record's image at its original resolution.

    Raises:
        ImageError: it cannot be read.
        DatasetError: it has another size than the file states, so the annotations do not fit.
    """
    image = read_image(record.path)
    if image.shape[:2] != (record.height, record.width):
        raise DatasetError(
            f"{record.path}: is {image.shape[1]} x {image.shape[0]} pixels (upright), but the annotations say "
            f"{record.width} x {record.height}; convert the annotations again for this image"
        )
    return image


class Examples:
    """Prepared examples by position in the split (a Grain data source), cached as far as `cache_bytes` allow."""

    def __init__(
        self,
        records: Sequence[Record],
        *,
        size: int | tuple[int, int],
        slots: int,
        mask_size: int,
        clahe: bool,
        cache_bytes: int,
    ):
        self.records, self.size, self.slots, self.mask_size, self.clahe = records, size, slots, mask_size, clahe
        self.free_bytes = cache_bytes
        self.cache: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self.records)

    def _read(self, record: Record) -> Example:
        image, place = prepare(read_record_image(record), size=self.size, clahe=self.clahe)
        instances = fill_slots(record, self.slots)
        empty = np.zeros((self.mask_size, self.mask_size), np.uint8)  # a crowd's mask is not used
        masks = [empty if i.crowd else box_mask(i, record.height, record.width, self.mask_size) for i in instances]
        return Example(
            image=image,
            window=place.window.astype(np.float32),
            boxes=place.to_letterbox(np.array([i.box for i in instances]).reshape(-1, 4)).astype(np.float32),
            classes=np.array([i.category for i in instances], np.int32),
            masks=np.packbits(np.array(masks, np.uint8).reshape(len(masks), self.mask_size**2), axis=1),
            crowd=np.array([i.crowd for i in instances], bool),
            image_id=record.image_id,
        )

    def __getitem__(self, index: int) -> Example:
        example = self.cache.get(index)
        if example is None:
            example = self._read(self.records[index])
            # Two threads may both read an image and count it twice: the cache is full a little early, nothing else.
            if example.bytes <= self.free_bytes:
                self.free_bytes -= example.bytes
                self.cache[index] = example
        return example


class Vary:
    """Unpack an example's masks and augment it; `how` None: no augmentation."""

    def __init__(self, mask_size: int, how: Augmentation | None):
        self.mask_size, self.how = mask_size, how

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        m = self.mask_size
        masks = np.unpackbits(example.masks, axis=1, count=m * m).reshape(-1, m, m)
        view = View(example.image, example.boxes, masks, example.window)
        if self.how:
            view = augment(view, rng, self.how)
        return example._replace(image=view.image, boxes=view.boxes, masks=view.masks, window=view.window)


class Collate:
    """Examples into one batch of `slots` slots."""

    def __init__(self, slots: int):
        self.slots = slots

    def _padded(self, values: list[np.ndarray]) -> np.ndarray:
        filled = np.zeros((len(values), self.slots, *values[0].shape[1:]), values[0].dtype)
        for row, value in zip(filled, values, strict=True):
            row[: len(value)] = value
        return filled

    def __call__(self, examples: Sequence[Example]) -> Batch:
        return Batch(
            images=np.stack([e.image for e in examples]),
            windows=np.stack([e.window for e in examples]),
            boxes=self._padded([e.boxes for e in examples]),
            classes=self._padded([e.classes for e in examples]),
            masks=self._padded([e.masks for e in examples]),
            valid=self._padded([np.ones(len(e.boxes), bool) for e in examples]),
            crowd=self._padded([e.crowd for e in examples]),
            image_ids=np.array([e.image_id for e in examples], np.int64),
        )
