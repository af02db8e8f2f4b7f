"""A hash of a split's content: what a run was trained on, written into its folder and compared later.

Of the annotations as read and of the images' bytes, so it changes with a pixel, an outline or a category, and not with
the dataset's place, its folders' names or the layout of its JSON.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Record, Split

THREADS = 4  # hashing and reading release the interpreter's lock
TOGETHER = 256  # images handed to the threads at once
DIGEST = 16  # bytes: 2^64 datasets before two are likely to agree


def _image(record: Record) -> bytes:
    try:
        with record.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DatasetError(f"{record.path}: cannot be read ({error.strerror}); check its permissions") from error


def _annotations(split: Split, record: Record) -> bytes:
    objects = [(split.categories[i.category][0], i.box, i.segmentation, i.crowd) for i in record.instances]
    size = (record.height, record.width)
    return json.dumps([record.image_id, record.file_name, size, objects], sort_keys=True).encode()


def fingerprint(split: Split, *, progress: Callable[[int], None] = lambda done: None) -> str:
    """The split's content in 32 hexadecimal digits.

    Args:
        split: its images exist.
        progress: called with the number of images done.

    Raises:
        DatasetError: an image cannot be read.
    """
    whole = hashlib.sha256(json.dumps(split.categories).encode())
    with ThreadPoolExecutor(THREADS) as pool:
        for at in range(0, len(split.records), TOGETHER):
            some = split.records[at : at + TOGETHER]
            for record, image in zip(some, pool.map(_image, some), strict=True):
                annotations = _annotations(split, record)
                # Each with its length, or of a fixed one: no two datasets give the same bytes.
                whole.update(len(annotations).to_bytes(8, "big") + annotations + image)
            progress(at + len(some))
    return whole.hexdigest()[: 2 * DIGEST]
