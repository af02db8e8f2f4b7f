"""Examples one by one: kept or read again they are the same; variations leave the kept ones alone; padding aligns."""

from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from crystal.data import preparation as examples
from crystal.data.augment import Augmentation
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Instance, Record
from crystal.data.preparation import Collate, Example, Sources, Vary, enclosing_boxes, fill_slots, read_record_image
from maskrcnn_jax.config import RPNTargetConfig
from maskrcnn_jax.roi.masks import paste
from maskrcnn_jax.rpn.targets import label_anchors
from tests.small import one_truth

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


VIEWS = {"size": (80, 120), "zooms": (1.0, 1.0), "mask_size": 9}


def sources(records, **changes) -> Sources:
    return Sources(records, **(VIEWS | {"clahe": False, "cache_bytes": 2**20} | changes))


def vary(how: Augmentation | None = None, slots: int = 4, **changes) -> Vary:
    return Vary(**(VIEWS | changes), slots=slots, how=how)


def shown(record: Record, *, slots: int = 4, seed: int = 0, **changes) -> Example:
    """An image as training shows it, but for augmentation."""
    return vary(slots=slots, **changes)(sources([record], **changes)[0], np.random.default_rng(seed))


def copied(source) -> list[np.ndarray]:
    arrays = [source.image, source.boxes, source.classes, source.crowd]
    return [np.copy(a) for a in (*arrays, *(source.mask(k) for k in np.flatnonzero(~source.crowd)))]


@pytest.mark.parametrize(("cache_bytes", "reads"), [(2**20, 3), (40 * 60 * 3 + 2000, 5), (0, 6)])
def test_an_image_is_read_once_as_long_as_there_is_room(records, monkeypatch, cache_bytes, reads):
    read = []
    original = examples.read_image
    monkeypatch.setattr(examples, "read_image", lambda path: read.append(path) or original(path))
    kept = sources(records, cache_bytes=cache_bytes)
    rounds = [[kept[k] for k in range(3)] for _ in range(2)]
    assert len(read) == reads
    for first, second in zip(*rounds, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(copied(first), copied(second), strict=True))


def test_boxes_are_in_the_letterbox_and_a_crowd_has_no_mask(records):
    example = shown(records[2])
    assert example.boxes.tolist() == [[0, 0, 120, 80], [20, 20, 40, 60]]  # the largest first
    assert example.classes.tolist() == [2, 1]
    assert example.crowd.tolist() == [True, False]
    assert example.masks.shape == (2, 9, 9)
    assert not example.masks[0].any()
    assert example.masks[1].all()


def test_variations_leave_the_kept_source_alone(records):
    kept = sources(records, zooms=(1.0, 2.0))
    before = copied(kept[2])
    varied = vary(Augmentation(tone=1.0, noise=1.0, gradient=1.0, blur=1.0, mirror=1.0), zooms=(1.0, 2.0))
    for seed in range(5):
        varied(kept[2], np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(copied(kept[2]), before, strict=True))


def test_masks_are_drawn_when_a_view_shows_them(records):
    source = sources(records)[2]
    assert not source.drawn
    vary()(source, np.random.default_rng(0))
    assert list(source.drawn) == np.flatnonzero(~source.crowd).tolist()


def test_slots(records):
    batch = Collate(4)([shown(record) for record in records])
    assert batch.valid.sum(1).tolist() == [0, 1, 2]
    assert batch.image_ids.tolist() == [1, 2, 3]
    assert batch.masks.shape == (3, 4, 9, 9)
    assert not batch.masks[~batch.valid].any()
    assert not batch.boxes[~batch.valid].any()
    assert not batch.classes[~batch.valid].any()
    assert len(shown(records[2], slots=1).boxes) == 1


def test_a_crop_shows_objects_where_they_are(tmp_path):
    """At any zoom, what the masks cover is what was painted: whole objects, and of cut ones what is visible."""
    rng = np.random.default_rng(3)
    picture, instances = np.zeros((400, 600), np.uint8), []
    for k, (x, y) in enumerate(rng.uniform((20, 20), (500, 320), (12, 2)), 1):
        corners = np.array([[x, y], [x + 70, y + 10], [x + 60, y + 55], [x + 10, y + 60]])
        cv2.fillPoly(picture, [np.rint(corners).astype(np.int32)], 255)
        box = (*corners.min(0).tolist(), *corners.max(0).tolist())
        instances.append(Instance(1, box, [corners.ravel().tolist()], False, k))
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    painted = Record(1, tmp_path / "a.png", "a.png", 400, 600, tuple(instances))
    views = {"size": (128, 192), "zooms": (1.0, 4.0), "mask_size": 64}
    kept, crop = sources([painted], **views)[0], vary(slots=12, **views)
    assert kept.image.shape == (400, 600, 3)  # zoom 4 would enlarge it
    cut = 0
    for seed in range(40):
        example = crop(kept, np.random.default_rng(seed))
        bright = example.image[..., 0] > 127
        covered = np.zeros((128, 192), bool)
        for box, mask, crowd in zip(example.boxes, example.masks, example.crowd, strict=True):
            if crowd:  # little of it is visible
                x1, y1, x2, y2 = np.rint(box).astype(int)
                bright[y1:y2, x1:x2] = covered[y1:y2, x1:x2] = False
            else:
                covered |= paste(mask.astype(float), box.astype(float), height=128, width=192)
            cut += bool(((box <= 0) | (box >= (192, 128, 192, 128))).any())
        assert (covered & bright).sum() >= 0.9 * (covered | bright).sum() - 10
    assert cut > 20


def many(count: int, seed=0) -> list[Instance]:
    """Objects of all sizes, anywhere in an image of 600 x 400."""
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, (560, 360), (count, 2)), rng.uniform(4, 40, (count, 2))
    boxes = np.concatenate([corners, corners + sides], 1).tolist()
    return [Instance(1, tuple(box), SQUARE, False, k) for k, box in enumerate(boxes, 1)]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 20, 400])
@pytest.mark.parametrize("crowds", [0, 1, 9])
def test_nothing_that_is_outlined_counts_as_background(count, crowds):
    """What does not fit into the slots is a crowd there, and the objects that are used are the largest."""
    boxes = np.array([i.box for i in many(count + crowds)]).reshape(-1, 4)
    crowd = np.arange(count + crowds) < crowds
    chosen, placed, ignored = fill_slots(boxes, crowd, 16)
    used = chosen[~ignored]
    assert len(chosen) <= 16
    assert not crowd[used].any()
    assert np.array_equal(placed[~ignored], boxes[used])
    assert (np.diff((placed[:, 2:] - placed[:, :2]).prod(1)) <= 0).all()  # the largest first
    rest = np.setdiff1d(np.arange(len(boxes)), used)
    for box in boxes[rest]:
        assert ((placed[ignored][:, :2] <= box[:2]) & (placed[ignored][:, 2:] >= box[2:])).all(1).any()
    if count + crowds <= 16:
        assert sorted(chosen) == list(range(count + crowds))
        assert np.array_equal(ignored, crowd[chosen])
    elif count:
        assert len(used) >= 12
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert area[used].min() >= area[rest[~crowd[rest]]].max()


def test_regions_are_no_larger_than_need_be():
    """Four clusters, far apart, are four regions; and of many objects none takes more than its share of the image."""
    rng = np.random.default_rng(0)
    corners = np.concatenate([rng.uniform(0, 20, (30, 2)) + at for at in ((0, 0), (300, 10), (20, 200), (400, 300))])
    regions = enclosing_boxes(np.concatenate([corners, corners + 5], 1), 4)
    assert np.ptp(regions.reshape(-1, 2, 2), axis=1).max() <= 25
    boxes = np.array([i.box for i in many(400)])
    regions = enclosing_boxes(boxes, 16)
    assert (regions[:, 2:] - regions[:, :2]).prod(1).max() < 600 * 400 / 8
    same = np.tile(boxes[:1], (9, 1))
    assert np.array_equal(np.unique(enclosing_boxes(same, 3), axis=0), boxes[:1])


def test_no_anchor_on_an_object_without_a_slot_is_a_negative(tmp_path):
    """By the network's own rule, after Vary and Collate."""
    record_ = Record(1, tmp_path / "a.png", "a.png", 400, 600, tuple(many(100)))
    cv2.imwrite(str(record_.path), np.zeros((400, 600, 3), np.uint8))
    batch = Collate(16)([shown(record_, slots=16, size=(400, 600), mask_size=4)])
    boxes = np.array([i.box for i in record_.instances])
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(boxes[:, 2:] - boxes[:, :2], 10) / 2
    own = jnp.asarray(np.concatenate([middle - half, middle + half], 1))  # an anchor on each of the objects
    truth = one_truth(batch.boxes[0], batch.valid[0], batch.crowd[0])
    label = label_anchors(own, truth, config=RPNTargetConfig()).label
    assert (label == 1).sum() >= 12
    assert not (label == 0).any()


def test_another_size_than_the_file_says(records):
    with pytest.raises(DatasetError, match=r"1\.png: is 60 x 40 pixels \(upright\), but the annotations say 60 x 41"):
        read_record_image(records[0]._replace(height=41))
