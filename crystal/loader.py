"""Batches for training and evaluation, by Grain, from the records of `dataset.py`.

The i-th training example is a pure function of the seed and i: which image, and how it is varied. So the place in the
input is one number, and a run that is taken up again goes on with the very next batch at no cost. Decoding and CLAHE at the
original resolution cost far more than a small network's step, so letterboxed images are kept in memory as long as they fit;
masks are kept as bits. Images of `workers` = 0 are read by threads that share this memory (OpenCV lets go of the
interpreter); with `workers` > 0 by that many processes, each with its share of the memory. No JAX is used in either.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from crystal.augment import Augmentation, View, augment
from crystal.dataset import DatasetError, Record, Split, box_mask
from crystal.images import prepare, read_image
from crystal.opencv import cv2
from maskrcnn_jax.image.letterbox import Letterbox

MASK_SIZE = 112  # cells a side; see box_mask and tests/crystal/test_dataset.py for what this keeps of an outline
CACHE_BYTES = 2 * 2**30
THREADS, AHEAD = 2, 4  # threads that prepare batches, and batches prepared ahead


class Batch(NamedTuple):
    """Images with their objects in g slots (`maskrcnn_jax.structures` says what the letters mean), all NumPy.

    Boxes and windows are pixels of the letterboxed image; masks are 0 or 1, relative to their boxes; unfilled slots are 0.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    windows: Float32[np.ndarray, "b 4"]
    boxes: Float32[np.ndarray, "b g 4"]
    classes: Int32[np.ndarray, "b g"]
    masks: UInt8[np.ndarray, "b g m m"]
    valid: Bool[np.ndarray, "b g"]
    crowd: Bool[np.ndarray, "b g"]
    image_ids: Int64[np.ndarray, " b"]


class _Example(NamedTuple):
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
        return self.image.nbytes + self.masks.nbytes + 1000  # and some for the rest


def _largest(record: Record, slots: int) -> list:
    """At most `slots` instances, the largest boxes first."""
    area = [(i.box[2] - i.box[0]) * (i.box[3] - i.box[1]) for i in record.instances]
    order = np.argsort(-np.array(area), kind="stable")[:slots]
    return [record.instances[k] for k in order]


def read_prepared(
    record: Record, *, size: int | tuple[int, int], clahe: bool
) -> tuple[UInt8[np.ndarray, "h w 3"], Letterbox]:
    """The record's image as the network sees it (`images.prepare`).

    Raises:
        ImageError: it cannot be read.
        DatasetError: it has another size than the file says, so the annotations would lie elsewhere.
    """
    image = read_image(record.path)
    if image.shape[:2] != (record.height, record.width):
        raise DatasetError(
            f"{record.path}: is {image.shape[1]} x {image.shape[0]} pixels (upright), but the annotations say {record.width} x "
            f"{record.height}; convert the annotations again for this image"
        )
    return prepare(image, size=size, clahe=clahe)


class _Examples:
    """Grain's random access to prepared examples, by position in the split; keeps what fits into `cache_bytes`."""

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
        self.room = cache_bytes
        self.cache: dict[int, _Example] = {}

    def __len__(self) -> int:
        return len(self.records)

    def _read(self, record: Record) -> _Example:
        image, place = read_prepared(record, size=self.size, clahe=self.clahe)
        instances = _largest(record, self.slots)
        empty = np.zeros((self.mask_size, self.mask_size), np.uint8)  # no one looks at a crowd's mask
        masks = [empty if i.crowd else box_mask(i, record.height, record.width, self.mask_size) for i in instances]
        return _Example(
            image=image,
            window=place.window.astype(np.float32),
            boxes=place.to_letterbox(np.array([i.box for i in instances]).reshape(-1, 4)).astype(np.float32),
            classes=np.array([i.category for i in instances], np.int32),
            masks=np.packbits(np.array(masks, np.uint8).reshape(len(masks), -1), axis=1),
            crowd=np.array([i.crowd for i in instances], bool),
            image_id=record.image_id,
        )

    def __getitem__(self, index: int) -> _Example:
        example = self.cache.get(index)
        if example is None:
            example = self._read(self.records[index])
            # Two threads may both read an image and count it twice: the room shrinks a little early, nothing breaks.
            if example.bytes <= self.room:
                self.room -= example.bytes
                self.cache[index] = example
        return example


class _Vary:
    """Unpack an example's masks and vary it by chance; a class, because worker processes need to be sent it."""

    def __init__(self, mask_size: int, how: Augmentation | None):
        self.mask_size, self.how = mask_size, how

    def __call__(self, example: _Example, rng: np.random.Generator) -> _Example:
        m = self.mask_size
        masks = np.unpackbits(example.masks, axis=1, count=m * m).reshape(-1, m, m)
        view = View(example.image, example.boxes, masks, example.window)
        if self.how:
            view = augment(view, rng, self.how)
        return example._replace(image=view.image, boxes=view.boxes, masks=view.masks, window=view.window)


class _Collate:
    """Examples into one batch of `slots` slots."""

    def __init__(self, slots: int):
        self.slots = slots

    def _padded(self, values: list[np.ndarray]) -> np.ndarray:
        filled = np.zeros((len(values), self.slots, *values[0].shape[1:]), values[0].dtype)
        for row, value in zip(filled, values, strict=True):
            row[: len(value)] = value
        return filled

    def __call__(self, examples: Sequence[_Example]) -> Batch:
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


def _one_core(worker: int, workers: int) -> None:
    cv2.setNumThreads(1)


class TrainingIterator(Iterator[Batch]):
    """Endless batches, with a place in them that can be saved and returned to."""

    def __init__(self, batches: grain.MapDataset, settings: dict[str, Any], workers: int):
        self._batches, self._settings, self._workers = batches, settings, workers
        self._given = 0
        self._iterator: grain.DatasetIterator | None = None  # threads and processes start with the first batch

    def __iter__(self) -> "TrainingIterator":
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            rest = self._batches.slice(slice(self._given, None))
            if self._workers:
                read_options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
                options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=AHEAD)
                stream = rest.to_iter_dataset(read_options).mp_prefetch(options, _one_core)
            else:
                stream = rest.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD))
            self._iterator = iter(stream)
        batch = next(self._iterator)
        self._given += 1
        return batch

    def close(self) -> None:
        """Stop the threads or processes; the place is kept."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def get_state(self) -> dict[str, Any]:
        """The place after the batches given so far, ready for JSON. The number of workers is not part of it."""
        return {"batches": self._given, **self._settings}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on after the batch where `state` was taken, at no cost.

        Raises:
            DatasetError: the state is of another dataset, seed or batch size, so there is no "next batch".
        """
        for key, value in self._settings.items():
            if state.get(key) != value:
                raise DatasetError(
                    f"the saved input position has {key} = {state.get(key)}, this run {value}; use the same data and settings, or "
                    "start a new run"
                )
        self.close()
        self._given = int(state["batches"])


def training_loader(
    split: Split,
    *,
    size: int | tuple[int, int],
    batch_size: int,
    slots: int,
    mask_size: int = MASK_SIZE,
    seed: int,
    clahe: bool,
    augment: bool | Augmentation = True,
    workers: int = 0,
    cache_bytes: int = CACHE_BYTES,
    shard: tuple[int, int] = (0, 1),
) -> TrainingIterator:
    """Endless training batches, every image once an epoch, in an order that changes with the epoch.

    Args:
        split: at least one record; images without objects are shown too.
        size: side of the letterbox or its (height, width).
        batch_size: images a batch (of this shard).
        slots: g; of an image with more instances the largest are kept, which is said once.
        mask_size: m.
        seed: for order and variations.
        clahe: whether to equalise.
        augment: whether and how to vary.
        workers: processes besides this one; 0: threads. With processes the script needs an `if __name__ == "__main__"`.
        cache_bytes: memory for prepared images, over all workers.
        shard: (index, count) of this process among those that train together. Their j-th batches together are the
            same images whatever the count, if batch_size * count is.

    Raises:
        DatasetError: no records.
    """
    if not split.records:
        raise DatasetError(f"{split.source}: lists no images, so there is nothing to train on; add some")
    crowded = [len(record.instances) for record in split.records if len(record.instances) > slots]
    if crowded:
        warnings.warn(
            f"{split.source}: {len(crowded)} image(s) have more than {slots} instances (up to {max(crowded)}); the largest "
            f"{slots} of each are used",
            stacklevel=2,
        )
    examples = _Examples(
        split.records,
        size=size,
        slots=slots,
        mask_size=mask_size,
        clahe=clahe,
        cache_bytes=cache_bytes // max(workers, 1),
    )
    how = Augmentation() if augment is True else augment or None
    index, count = shard
    batches = (
        grain.MapDataset.source(examples)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(_Vary(mask_size, how))
        .slice(slice(index, None, count))
        .batch(batch_size, batch_fn=_Collate(slots))
    )
    settings = {"records": len(split.records), "seed": seed, "batch_size": batch_size, "shard": list(shard)}
    return TrainingIterator(batches, settings, workers)


class EvaluationBatch(NamedTuple):
    """Images in order; `records` lists the real ones with where they lie, the rest repeats the last to fill the batch."""

    images: UInt8[np.ndarray, "b h w 3"]
    windows: Float32[np.ndarray, "b 4"]
    records: list[tuple[Record, Letterbox]]


def evaluation_loader(
    split: Split | Sequence[Record], *, size: int | tuple[int, int], batch_size: int, clahe: bool
) -> Iterator[EvaluationBatch]:
    """Every record once, in order, in batches of one size; two are read ahead while the network works.

    Raises:
        ImageError: an image cannot be read.
        DatasetError: it has another size than the file says.
    """
    records = split.records if isinstance(split, Split) else list(split)

    def load(start: int) -> EvaluationBatch:
        real = [(r, *read_prepared(r, size=size, clahe=clahe)) for r in records[start : start + batch_size]]
        filled = real + real[-1:] * (batch_size - len(real))
        return EvaluationBatch(
            np.stack([image for _, image, _ in filled]),
            np.stack([place.window for _, _, place in filled]).astype(np.float32),
            [(record, place) for record, _, place in real],
        )

    if not records:
        return
    starts = grain.MapDataset.range(0, len(records), batch_size)
    yield from starts.map(load).to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2))
