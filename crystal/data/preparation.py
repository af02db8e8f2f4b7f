"""Training examples one by one: an image read, cropped, letterboxed with its objects, augmented, put into a batch.

The three steps that `loader.py` gives to Grain: `Sources` (by position in the split), `Vary` and `Collate`, classes so
that they can be sent to worker processes. Decoding and CLAHE at the original resolution cost far more than a small
network's step, so images are cached as long as they fit: as small as the largest zoom allows, their masks as bits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64, UInt8

from crystal.data.augment import Augmentation, View, augment
from crystal.data.coco_file import DatasetError
from crystal.data.crops import LEAST_VISIBLE, Crop, draw_crop, visible_part
from crystal.data.dataset import Record, box_mask
from crystal.data.images import apply_clahe, read_image, resize
from maskrcnn_jax.image.letterbox import fit, letterbox


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


class Source(NamedTuple):
    """An image as it lies in the cache: boxes in its own pixels, masks as bits, each drawn when it is first seen."""

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]
    record: Record
    mask_size: int
    drawn: dict[int, UInt8[np.ndarray, " bytes"]]

    @property
    def bytes(self) -> int:
        """With all masks."""
        return self.image.nbytes + len(self.boxes) * self.mask_size**2 // 8 + 1000  # for the rest

    def mask(self, number: int) -> UInt8[np.ndarray, "m m"]:
        """Of one object, relative to its box."""
        m, record = self.mask_size, self.record
        if number not in self.drawn:
            self.drawn[number] = np.packbits(box_mask(record.instances[number], record.height, record.width, m))
        return np.unpackbits(self.drawn[number], count=m * m).reshape(m, m)


class Example(NamedTuple):
    """What the network sees of an image, with the objects that are in it."""

    image: UInt8[np.ndarray, "h w 3"]
    window: Float32[np.ndarray, " 4"]
    boxes: Float32[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    masks: UInt8[np.ndarray, "n m m"]
    crowd: Bool[np.ndarray, " n"]
    image_id: int


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


def fill_slots(
    boxes: Float[np.ndarray, "n 4"], crowd: Bool[np.ndarray, " n"], slots: int
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, "k 4"], Bool[np.ndarray, " k"]]:
    """At most `slots` objects and crowds, the largest boxes first: nothing that is outlined counts as background.

    Where there are more, the largest objects fill three quarters of the slots. The other objects and the crowds become
    crowds in the slots that are left, several in one box where they are too many (`enclosing_boxes`). In training, an
    anchor or RoI that overlaps a crowd (by an IoU of `crowd_iou`, 0.001) is no negative; it may still be a positive.

    Returns:
        For each slot: the index of its object, for a region of several that of any; its box; whether it is a crowd.
    """
    chosen = np.arange(len(boxes))
    if len(boxes) > slots:
        largest = np.flatnonzero(~crowd)[np.argsort(-_areas(boxes[~crowd]), kind="stable")]
        used = largest[: slots - max(slots // 4, 1)]
        rest = np.setdiff1d(chosen, used)
        regions = enclosing_boxes(boxes[rest], slots - len(used))
        chosen = np.concatenate([used, np.full(len(regions), rest[0])])
        boxes = np.concatenate([boxes[used], regions])
        crowd = np.arange(len(chosen)) >= len(used)
    order = np.argsort(-_areas(boxes), kind="stable")
    return chosen[order], boxes[order], crowd[order]


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


class Sources:
    """Images with their objects by position in the split (a Grain data source), cached as far as `cache_bytes` allow.

    An image is kept as small as it may be for a view at the largest zoom to need no enlarging.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        size: tuple[int, int],
        zooms: tuple[float, float],
        mask_size: int,
        clahe: bool,
        cache_bytes: int,
    ):
        self.records, self.size, self.zooms = records, size, zooms
        self.mask_size, self.clahe = mask_size, clahe
        self.free_bytes = cache_bytes
        self.cache: dict[int, Source] = {}

    def __len__(self) -> int:
        return len(self.records)

    def _read(self, record: Record) -> Source:
        height, width = record.height, record.width
        image = read_record_image(record)
        image = apply_clahe(image) if self.clahe else image
        tall, wide = self.size
        place = fit(height, width, (round(tall * self.zooms[1]), round(wide * self.zooms[1])))
        if place.resized[0] < height:
            image = resize(image, place.resized)
        ratio = np.array([image.shape[1] / width, image.shape[0] / height] * 2)
        return Source(
            image=image,
            boxes=np.array([i.box for i in record.instances], np.float64).reshape(-1, 4) * ratio,
            classes=np.array([i.category for i in record.instances], np.int32),
            crowd=np.array([i.crowd for i in record.instances], bool),
            record=record,
            mask_size=self.mask_size,
            drawn={},
        )

    def __getitem__(self, index: int) -> Source:
        source = self.cache.get(index)
        if source is None:
            source = self._read(self.records[index])
            # Two threads may both read an image and count it twice: the cache is full a little early, nothing else.
            if source.bytes <= self.free_bytes:
                self.free_bytes -= source.bytes
                self.cache[index] = source
        return source


class Vary:
    """A source at a random zoom, with at most `slots` objects, augmented; `how` None: no augmentation."""

    def __init__(
        self,
        *,
        size: tuple[int, int],
        zooms: tuple[float, float],
        slots: int,
        mask_size: int,
        how: Augmentation | None,
    ):
        self.size, self.zooms, self.slots, self.mask_size, self.how = size, zooms, slots, mask_size, how

    def __call__(self, source: Source, rng: np.random.Generator) -> Example:
        height, width = source.image.shape[:2]
        crop = draw_crop(rng, height, width, self.size, self.zooms, source.boxes[~source.crowd])
        part = source.image[crop.top : crop.bottom, crop.left : crop.right]
        image, place = letterbox(part, self.size, resize=resize)
        numbers, boxes, parts, crowd = self._seen(source, crop)
        chosen, boxes, crowd = fill_slots(boxes, crowd, self.slots)
        numbers = numbers[chosen]
        boxes = place.to_letterbox(boxes - np.tile(crop[:2], 2)).astype(np.float32)
        masks = np.zeros((len(numbers), self.mask_size, self.mask_size), np.uint8)  # a crowd's stays empty
        for k in np.flatnonzero(~crowd):
            masks[k] = parts[numbers[k]] if numbers[k] in parts else source.mask(numbers[k])
        view = View(image, boxes, masks, place.window.astype(np.float32))
        if self.how:
            view = augment(view, rng, self.how)
        return Example(
            image=view.image,
            window=view.window,
            boxes=view.boxes,
            classes=source.classes[numbers],
            masks=view.masks,
            crowd=crowd,
            image_id=source.record.image_id,
        )

    def _seen(self, source: Source, crop: Crop) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray], np.ndarray]:
        """What a crop shows of the objects: their indices, boxes [n, 4] in the source, masks by index of those that it
        cuts, crowd [n].
        """
        low, high = np.array(crop[:2]), np.array(crop[2:])
        meets = np.flatnonzero(((source.boxes[:, :2] < high) & (source.boxes[:, 2:] > low)).all(1))
        boxes, crowd = source.boxes[meets].copy(), source.crowd[meets].copy()
        cut = ((boxes[:, :2] < low) | (boxes[:, 2:] > high)).any(1)
        shares, parts = np.ones(len(meets)), {}
        for k in np.flatnonzero(cut & ~crowd):
            boxes[k], parts[meets[k]], shares[k] = visible_part(boxes[k], source.mask(meets[k]), crop)
        boxes = np.clip(boxes, np.tile(low, 2), np.tile(high, 2))
        crowd |= shares < LEAST_VISIBLE
        kept = shares > 0
        return meets[kept], boxes[kept], parts, crowd[kept]


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
