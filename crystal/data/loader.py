"""Batches for training, by Grain, from the records of `dataset.py`.

The i-th training example is a pure function of the seed and i: which image, and how it is varied. So the position in
the input is one number, and a run that is resumed continues with the very next batch at no cost.

With `workers` = 0, threads of this process prepare images and share the cache of prepared ones (OpenCV releases the
interpreter's lock); otherwise that many processes do, each with its share of the cache. Nothing here computes with JAX.
Grain imports it, for its trees of arrays, but starts no backend, and its processes are spawned, not forked: no worker
hangs on XLA's threads or takes the GPU.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from crystal.console import console
from crystal.data.augment import Augmentation
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Split, raise_if_nothing_to_learn
from crystal.data.preparation import Batch, Collate, Sources, Vary

MASK_SIZE = 176  # cells a side: a needle across a box of 272 x 245 pixels still keeps a mask IoU of 0.97
CACHE_BYTES = 2 * 2**30
EPOCHS = 2**31  # endless; Grain's own endlessness overflows when it is cut into batches of one
THREADS, AHEAD = 2, 4  # threads that prepare batches, and batches prepared ahead


def _one_core(worker: int, workers: int) -> None:
    cv2.setNumThreads(1)


def _stream(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    """The batches in order, prepared ahead by threads or processes."""
    if not workers:
        return batches.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD))
    # Grain's processes ask for absl's flags, which only programs that run under absl have parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    one_by_one = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
    return one_by_one.mp_prefetch(options, _one_core)


class TrainingIterator(Iterator[Batch]):
    """Endless batches, with a position that can be saved and returned to."""

    def __init__(
        self, batches: grain.MapDataset, settings: dict[str, Any], workers: int, file_names: Mapping[int, str]
    ):
        self._batches, self._settings, self._workers, self._file_names = batches, settings, workers, file_names
        self._position = 0  # batches given so far
        self._iterator: grain.DatasetIterator | None = None  # threads and processes start with the first batch

    def __iter__(self) -> "TrainingIterator":
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(_stream(self._batches.slice(slice(self._position, None)), self._workers))
        batch: Batch = next(self._iterator)
        if self._workers:  # out of the shared memory, which may end before a caller that keeps batches does
            batch = Batch(*(np.array(array) for array in batch))
        self._position += 1
        return batch

    def names(self, image_ids: Iterable[int]) -> list[str]:
        """The file names of a batch's images."""
        return [self._file_names[int(i)] for i in image_ids]

    def close(self) -> None:
        """Stop the threads or processes; the position stays."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def get_state(self) -> dict[str, Any]:
        """The position after the batches given so far, ready for JSON. The number of workers is not part of it."""
        return {"batches": self._position, **self._settings}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue after the batch where `state` was taken, at no cost.

        Raises:
            DatasetError: the state is of another dataset, seed or batch size, so there is no "next batch".
        """
        for key, value in self._settings.items():
            if state.get(key) != value:
                raise DatasetError(
                    f"the saved input position has {key} = {state.get(key)}, this run {value}; use the same data and "
                    "settings, or start a new run"
                )
        self.close()
        self._position = int(state["batches"])


def training_loader(
    split: Split,
    *,
    size: tuple[int, int],
    zooms: tuple[float, float] = (1.0, 1.0),
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
        split: at least one object; images without objects are shown too.
        size: (height, width) of the letterbox.
        zooms: least and largest zoom of the views (`crops.py`); by default whole images.
        batch_size: images a batch (of this shard).
        slots: g; of a view with more instances the largest are used and the others ignored (see
            `preparation.fill_slots`), with one note where an image has more.
        mask_size: m.
        seed: for order and variations.
        clahe: whether to equalise.
        augment: whether and how to vary.
        workers: processes besides this one; 0: threads. With processes the script needs an `if __name__ == "__main__"`.
        cache_bytes: memory for prepared images, over all workers.
        shard: (index, count) of this process among those that train together. Their j-th batches one after the other
            are the same images in the same order whatever the count, if batch_size * count is, and so is the saved
            position.

    Raises:
        DatasetError: no records, or no object in them.
    """
    raise_if_nothing_to_learn(split)
    instances = [instance for record in split.records for instance in record.instances]
    crowds = sum(instance.crowd and instance.outlined for instance in instances)
    if 2 * crowds > len(instances):
        console.print(
            f"note: {split.source}: {crowds} of {len(instances)} annotations are crowds (iscrowd 1), which are ignored "
            "unless --crowds-as-objects takes them for objects"
        )
    crowded = [len(record.instances) for record in split.records if len(record.instances) > slots]
    if crowded:
        console.print(
            f"note: {split.source}: {len(crowded)} image(s) have more than {slots} objects (up to {max(crowded)}): of "
            "a view that shows more, the largest are used, the places of the others are ignored; "
            f"--set slots={max(crowded)} takes all",
            markup=False,
        )
    share = cache_bytes // max(workers, 1)
    sources = Sources(split.records, size=size, zooms=zooms, mask_size=mask_size, clahe=clahe, cache_bytes=share)
    how = Augmentation() if augment is True else augment or None
    vary = Vary(size=size, zooms=zooms, slots=slots, mask_size=mask_size, how=how)
    index, count = shard
    batches = (
        grain.MapDataset.source(sources)
        .seed(seed)
        .shuffle()
        .repeat(EPOCHS)
        .random_map(vary)
        .batch(batch_size, batch_fn=Collate(slots))
        .slice(slice(index, None, count))
    )
    settings = {"records": len(split.records), "seed": seed, "batch_size": batch_size * count}
    return TrainingIterator(batches, settings, workers, {r.image_id: r.file_name for r in split.records})
