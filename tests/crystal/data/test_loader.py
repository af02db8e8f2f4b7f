"""Batches: right in content, the same from the same seed, and to be taken up at any place."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from crystal.data import preparation as examples
from crystal.data.augment import Augmentation
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Split, load_split
from crystal.data.images import ImageError, prepare, read_image
from crystal.data.loader import training_loader
from crystal.data.preparation import Batch
from crystal.data.segmentation import draw_pixels
from maskrcnn_jax.roi.masks import paste

ROOT = Path(__file__).resolve().parents[3]
HEIGHT, WIDTH, IMAGES, SLOTS, CELLS = 60, 80, 7, 6, 28
OPTIONS = {"size": (48, 64), "batch_size": 3, "slots": SLOTS, "mask_size": CELLS, "seed": 1, "clahe": False}


def blob(rng: np.random.Generator) -> list[float]:
    x, y, side = rng.uniform(0, 50), rng.uniform(0, 35), rng.uniform(12, 25)
    return [x, y, x + side, y, x + side, y + side, x, y + side / 2]


def make(root: Path) -> Path:
    """Seven images: the k-th has k objects, bright polygons; the last of an odd image's is a crowd."""
    rng = np.random.default_rng(0)
    coco = {"images": [], "annotations": [], "categories": [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}]}
    (root / "train/images").mkdir(parents=True)
    for k in range(IMAGES):
        picture = rng.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
        for j in range(k):
            polygon = blob(rng)
            cv2.fillPoly(picture, [np.reshape(polygon, (-1, 2)).astype(np.int32)], (200, 150, 250 - 10 * j))
            x, y = polygon[::2], polygon[1::2]
            number = len(coco["annotations"]) + 1
            crowd = int(k % 2 == 1 and j == k - 1)
            box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
            fields = {"id": number, "image_id": 100 + k, "category_id": (4, 9)[j % 2], "iscrowd": crowd}
            coco["annotations"].append(fields | {"segmentation": [polygon], "bbox": box})
        cv2.imwrite(str(root / f"train/images/{k}.png"), picture)
        coco["images"].append({"id": 100 + k, "file_name": f"{k}.png", "height": HEIGHT, "width": WIDTH})
    (root / "train.json").write_text(json.dumps(coco))
    return root


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    return load_split(make(tmp_path_factory.mktemp("data")), "train")


def take(split: Split, count: int, **changes) -> list[Batch]:
    batches = training_loader(split, **(OPTIONS | changes))
    got = [next(batches) for _ in range(count)]
    batches.close()
    return got


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


# --- content ----------------------------------------------------------------------------------------------------------


def test_shapes_and_types(split):
    (batch,) = take(split, 1)
    assert [(a.shape, str(a.dtype)) for a in batch] == [
        ((3, 48, 64, 3), "uint8"),
        ((3, 4), "float32"),
        ((3, SLOTS, 4), "float32"),
        ((3, SLOTS), "int32"),
        ((3, SLOTS, CELLS, CELLS), "uint8"),
        ((3, SLOTS), "bool"),
        ((3, SLOTS), "bool"),
        ((3,), "int64"),
    ]
    assert set(np.unique(batch.masks)) <= {0, 1}


@pytest.mark.parametrize("clahe", [False, True])
def test_each_image_comes_with_its_own_objects(split, clahe):
    records = {record.image_id: record for record in split.records}
    for batch in take(split, 3, augment=False, clahe=clahe, slots=8):
        for row, number in enumerate(batch.image_ids):
            record = records[int(number)]
            image, place = prepare(read_image(record.path), size=(48, 64), clahe=clahe)
            assert np.array_equal(batch.images[row], image)
            assert np.array_equal(batch.windows[row], place.window)
            count = len(record.instances)
            assert batch.valid[row].tolist() == [True] * count + [False] * (8 - count)
            # By size, the largest first.
            order = sorted(record.instances, key=lambda i: -(i.box[2] - i.box[0]) * (i.box[3] - i.box[1]))
            for slot, instance in enumerate(order):
                assert np.allclose(batch.boxes[row, slot], place.to_letterbox(np.array(instance.box)), atol=1e-4)
                assert batch.classes[row, slot] == instance.category
                assert batch.crowd[row, slot] == instance.crowd
                if not instance.crowd:
                    cells = batch.masks[row, slot].astype(float)
                    back = paste(cells, place.to_original(batch.boxes[row, slot]), height=HEIGHT, width=WIDTH)
                    truth = draw_pixels(instance.segmentation, HEIGHT, WIDTH).astype(bool)
                    assert (back & truth).sum() / (back | truth).sum() > 0.97
            assert not batch.boxes[row, count:].any()


def test_variations_keep_image_and_masks_together(split):
    """Mirrored or not, what the masks cover is what was painted bright."""
    compared = 0
    for batch in take(split, 8, augment=Augmentation(tone=0.0, gradient=0.0, blur=0.0, noise=0.0)):
        for row in np.flatnonzero(batch.valid.any(1) & ~batch.crowd.any(1)):
            covered = np.zeros((48, 64), bool)
            for slot in np.flatnonzero(batch.valid[row]):
                cells, box = batch.masks[row, slot].astype(float), batch.boxes[row, slot].astype(float)
                covered |= paste(cells, box, height=48, width=64)
            bright = batch.images[row, ..., 0] > 120
            assert (covered & bright).sum() / (covered | bright).sum() > 0.8
            compared += 1
    assert compared >= 5


def test_more_instances_than_slots(split, capsys):
    batches = training_loader(split, **(OPTIONS | {"slots": 2}))
    (said,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"note: .*train\.json: 4 image\(s\) have more than 2 objects \(up to 6\): .* --set slots=6 .*", said
    )
    got = [next(batches) for _ in range(5)]
    batches.close()
    records = {r.image_id: r.instances for r in split.records}
    for batch in got:
        for row, number in enumerate(batch.image_ids.tolist()):
            crowds = [False, True] if len(records[number]) > 2 else sorted(i.crowd for i in records[number])
            assert sorted(batch.crowd[row][batch.valid[row]]) == crowds  # the largest object; a region for the others


def test_mostly_crowds_are_said(split, capsys):
    """CVAT writes brush masks so: a few polygons beside them would be all that is learnt."""
    records = [
        r._replace(instances=tuple(i._replace(crowd=k > 0) for k, i in enumerate(r.instances))) for r in split.records
    ]
    take(split._replace(records=tuple(records)), 1)
    assert (
        "15 of 21 annotations are crowds (iscrowd 1), which are ignored unless --crowds-as-objects"
        in capsys.readouterr().out
    )
    take(split, 1)
    assert capsys.readouterr().out == ""


def test_every_kind_of_outline_through_a_file(tmp_path):
    """Written as COCO, read, batched, pasted back: crowds with run lengths of both kinds, gaps, parts, a full house."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    discs = [
        (x - cx) ** 2 + (y - cy) ** 2 < r * r for cx, cy, r in ((20, 20, 14), (55, 30, 18), (70, 8, 7), (10, 50, 3))
    ]

    def packed(mask: np.ndarray) -> dict:
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}

    def plain(mask: np.ndarray) -> dict:
        turns = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0))
        return {"size": [HEIGHT, WIDTH], "counts": np.diff(turns, prepend=0, append=mask.size).tolist()}

    parts = [[40.0, 40.0, 52.0, 40.0, 52.0, 56.0, 40.0, 56.0], [56.0, 50.0, 76.0, 50.0, 76.0, 58.0, 60.0, 58.0]]
    two_parts = coco_mask.decode(coco_mask.frPyObjects(parts, HEIGHT, WIDTH)).any(-1)
    kinds = [(packed(discs[0]), 90, 1), (plain(discs[1]), 13, 1), (plain(discs[2]), 13, 0), (parts, 90, 0)]
    kinds.append((packed(discs[3]), 90, 0))
    masks = [*discs[:3], two_parts]
    annotations = [
        {"id": k, "image_id": 5, "category_id": c, "iscrowd": crowd, "segmentation": outline}
        for k, (outline, c, crowd) in enumerate(kinds, 1)
    ]
    coco = {
        "images": [{"id": 5, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations,
        "categories": [{"id": 90, "name": "c"}, {"id": 3, "name": "a"}, {"id": 13, "name": "b"}],
    }
    (tmp_path / "train/images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "train/images/a.png"), rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    (tmp_path / "train.json").write_text(json.dumps(coco))
    split = load_split(tmp_path, "train")
    assert [number for number, _ in split.categories] == [0, 3, 13, 90]
    (batch,) = take(split, 1, batch_size=1, slots=5, augment=False, size=(HEIGHT, WIDTH), mask_size=80)
    assert batch.valid.all()
    by_box = {tuple(np.rint(box).astype(int)): slot for slot, box in enumerate(batch.boxes[0].tolist())}
    for mask, (_, category, crowd) in zip(masks, kinds, strict=False):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        slot = by_box[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert batch.classes[0, slot] == {3: 1, 13: 2, 90: 3}[category]
        assert batch.crowd[0, slot] == bool(crowd)
        back = paste(batch.masks[0, slot].astype(float), batch.boxes[0, slot].astype(float), height=HEIGHT, width=WIDTH)
        assert crowd or (back & mask).sum() / (back | mask).sum() > 0.99


# --- order ------------------------------------------------------------------------------------------------------------


def test_every_image_once_an_epoch_in_changing_order(split):
    numbers = np.concatenate([batch.image_ids for batch in take(split, IMAGES)])
    epochs = numbers.reshape(3, IMAGES).tolist()
    assert all(sorted(epoch) == list(range(100, 100 + IMAGES)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_equal_seeds_give_equal_batches_and_others_do_not(split):
    first, again, other = (take(split, 6, zooms=(1.0, 2.5), seed=seed) for seed in (1, 1, 2))
    assert all(map(same, first, again))
    assert not any(map(same, first, other))
    assert all(map(same, first, take(split, 6, zooms=(1.0, 2.5), cache_bytes=0)))  # whether cached or not


def test_the_same_image_is_varied_anew_each_epoch(split):
    batches = take(split, 2 * IMAGES, batch_size=1)
    one = [batch.images[0] for batch in batches if batch.image_ids[0] == 103]
    assert len(one) == 2
    assert not np.array_equal(*one)


@pytest.mark.parametrize("saved", [0, 4])
def test_state_round_trip(split, saved):
    straight = take(split, 7)
    batches = training_loader(split, **OPTIONS)
    for _ in range(saved):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    batches.close()
    other = training_loader(split, **OPTIONS)
    next(other)  # whatever it did before
    other.set_state(state)
    assert all(same(next(other), batch) for batch in straight[saved:6])
    assert other.get_state()["batches"] == 6
    other.close()
    assert same(next(other), straight[6])  # closing keeps the position
    other.close()


def test_going_on_is_cheap(split, monkeypatch):
    read = []
    original = examples.read_image
    monkeypatch.setattr(examples, "read_image", lambda path: read.append(path) or original(path))
    batches = training_loader(split, **OPTIONS)
    batches.set_state(batches.get_state() | {"batches": 10**9})
    next(batches)
    batches.close()
    assert len(read) <= 3 * 8  # the batch and those prepared ahead; none of a thousand million


def test_state_of_another_run_is_refused(split):
    state = training_loader(split, **OPTIONS).get_state()
    with pytest.raises(DatasetError, match=r"has seed = 1, this run 2; use the same data and settings"):
        training_loader(split, **(OPTIONS | {"seed": 2})).set_state(state)


def test_shards_together_are_the_whole(split):
    whole = take(split, 4, batch_size=4)
    halves = [take(split, 4, batch_size=2, shard=(index, 2)) for index in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        for array, left, right in zip(batch, first, second, strict=True):
            assert np.array_equal(array[:2], left)
            assert np.array_equal(array[2:], right)


def test_a_place_is_that_of_all_shards(split):
    """So a run saved by two processes goes on as one, and the other way round."""
    (first, second) = (training_loader(split, **(OPTIONS | {"batch_size": 2, "shard": (i, 2)})) for i in (0, 1))
    next(first), next(second)
    alone = training_loader(split, **(OPTIONS | {"batch_size": 4}))
    next(alone)
    assert first.get_state() == second.get_state() == alone.get_state()
    second.set_state(alone.get_state())
    assert np.array_equal(next(alone).images[2:], next(second).images)
    for loader in (first, second, alone):
        loader.close()


def test_worker_processes_give_the_same_batches(split, tmp_path):
    """In a script of its own, as in use: processes need a main that can be imported."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import numpy as np\n"
        "from crystal.data.dataset import load_split\n"
        "from crystal.data.loader import training_loader\n"
        "if __name__ == '__main__':\n"
        f"    options = {OPTIONS | {'zooms': (1.0, 2.5)}!r}\n"
        f"    split = load_split({str(split.source.parent)!r}, 'train')\n"
        "    alone, helped = (training_loader(split, **options, workers=w) for w in (0, 2))\n"
        "    for _ in range(4):\n"
        "        a, b = next(alone), next(helped)\n"
        "        assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))\n"
        "    assert helped.get_state() == alone.get_state()\n"
        "    alone.close(); helped.close(); print('equal')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "equal\n", done.stderr[-2000:]
    assert "Traceback" not in done.stderr


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_damaged_image_is_one_sentence_from_inside_the_threads(tmp_path):
    root = make(tmp_path)
    (root / "train/images/3.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"3\.png: cannot be decoded"):
        take(load_split(root, "train"), IMAGES)


def test_image_of_another_size(tmp_path):
    root = make(tmp_path)
    cv2.imwrite(str(root / "train/images/3.png"), np.zeros((WIDTH, HEIGHT), np.uint8))
    split = load_split(root, "train")
    with pytest.raises(DatasetError, match=r"3\.png: is 60 x 80 pixels \(upright\), but the annotations say 80 x 60"):
        take(split, IMAGES)


def test_no_images(split):
    with pytest.raises(DatasetError, match="nothing to train on"):
        training_loader(split._replace(records=()), **OPTIONS)
