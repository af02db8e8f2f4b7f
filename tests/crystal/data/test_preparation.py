"""Examples one by one: kept or read again they are the same; variations leave the kept ones alone; padding aligns."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from crystal.data import preparation as examples
from crystal.data.augment import Augmentation
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Instance, Record
from crystal.data.preparation import Collate, Examples, Vary, read_record_image

SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 30.0, 10.0, 30.0]]


def record(folder: Path, number: int, *instances: Instance) -> Record:
    path = folder / f"{number}.png"
    cv2.imwrite(str(path), np.full((40, 60, 3), 50 * number, np.uint8))
    return Record(number, path, path.name, 40, 60, instances)


@pytest.fixture
def records(tmp_path) -> list[Record]:
    square, crowd = (
        Instance(1, (10.0, 10.0, 20.0, 30.0), SQUARE, False, 1),
        Instance(2, (0.0, 0.0, 60.0, 40.0), SQUARE, True, 2),
    )
    return [record(tmp_path, 1), record(tmp_path, 2, square), record(tmp_path, 3, square, crowd)]


def source(records, **changes) -> Examples:
    options = {"size": (80, 120), "slots": 4, "mask_size": 9, "clahe": False, "cache_bytes": 2**20}
    return Examples(records, **(options | changes))


@pytest.mark.parametrize(("cache_bytes", "reads"), [(2**20, 3), (80 * 120 * 3 + 2000, 5), (0, 6)])
def test_an_image_is_read_once_as_long_as_there_is_room(records, monkeypatch, cache_bytes, reads):
    read = []
    original = examples.read_image
    monkeypatch.setattr(examples, "read_image", lambda path: read.append(path) or original(path))
    kept = source(records, cache_bytes=cache_bytes)
    rounds = [[kept[k] for k in range(3)] for _ in range(2)]
    assert len(read) == reads
    for first, second in zip(*rounds, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_boxes_are_in_the_letterbox_and_a_crowd_has_no_mask(records):
    example = source(records)[2]
    assert example.boxes.tolist() == [[0, 0, 120, 80], [20, 20, 40, 60]]  # the largest first
    assert example.classes.tolist() == [2, 1]
    assert example.crowd.tolist() == [True, False]
    masks = Vary(9, None)(example, np.random.default_rng(0)).masks
    assert masks.shape == (2, 9, 9)
    assert not masks[0].any()
    assert masks[1].all()


def test_variations_leave_the_kept_example_alone(records):
    kept = source(records)
    before = [np.copy(a) for a in kept[2]]
    vary = Vary(9, Augmentation(tone=1.0, noise=1.0, gradient=1.0, blur=1.0, mirror=1.0))
    for seed in range(5):
        vary(kept[2], np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(kept[2], before, strict=True))


def test_slots(records):
    vary = Vary(9, None)
    loose = [vary(source(records)[k], np.random.default_rng(0)) for k in range(3)]
    batch = Collate(4)(loose)
    assert batch.valid.sum(1).tolist() == [0, 1, 2]
    assert batch.image_ids.tolist() == [1, 2, 3]
    assert batch.masks.shape == (3, 4, 9, 9)
    assert not batch.masks[~batch.valid].any()
    assert not batch.boxes[~batch.valid].any()
    assert not batch.classes[~batch.valid].any()
    assert len(source(records, slots=1)[2].boxes) == 1


def test_another_size_than_the_file_says(records):
    with pytest.raises(DatasetError, match=r"1\.png: is 60 x 40 pixels \(upright\), but the annotations say 60 x 41"):
        read_record_image(records[0]._replace(height=41))
