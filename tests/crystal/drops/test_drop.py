"""Drops drawn from a seed: exact masks, equal bytes, not solved by a threshold, nothing left half-written."""

import errno
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from crystal.drops import crystals as solids
from crystal.drops import dataset as rendering
from crystal.drops import drop as drawing
from crystal.drops.drop import Drop, draw_drop
from crystal.drops.stage import COARSE, Stage, tint_part
from crystal.drops.world.dense import draw_dense
from crystal.files import OutputError
from tests.otsu import average_precision, otsu_components

render_dataset = partial(rendering.render_dataset, scenes="simple")
SMALL = {"height": 256, "width": 320}
HALF = {"height": 400, "width": 500}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drops") / "set"
    render_dataset(out, train=4, val=2, seed=3, workers=1, **HALF)
    return out


@pytest.fixture(scope="module")
def drops() -> list[Drop]:
    return [draw_drop((11, i), **HALF) for i in range(24)]


# --- one drop ---------------------------------------------------------------------------------------------------------


def test_image_and_masks_have_the_asked_size():
    drop = draw_drop(5, height=300, width=500, crystals=4)
    assert drop.image.shape == (300, 500, 3)
    assert drop.image.dtype == np.uint8
    assert all(i.mask.shape == (300, 500) and i.mask.dtype == bool for i in drop.instances)
    assert {i.kind for i in drop.instances} <= set(solids.KINDS)


def test_equal_seeds_draw_equal_drops_and_others_do_not():
    first, again, other = (draw_drop(seed, **SMALL) for seed in (7, 7, 8))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(draw_drop((7, 1), **SMALL).image, draw_drop((7, 2), **SMALL).image)


def test_each_pixel_belongs_to_one_crystal(drops):
    for drop in drops:
        assert all(i.mask.any() for i in drop.instances)
        assert np.sum([i.mask for i in drop.instances], axis=0).max(initial=0) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_light_changes_the_picture_but_no_mask(seed):
    bright, dim = (draw_drop(seed, light=light, crystals=9, **HALF) for light in (0.0, 1.0))
    assert len(bright.instances) == len(dim.instances)
    for a, b in zip(bright.instances, dim.instances, strict=True):
        assert np.array_equal(a.mask, b.mask)
        assert (a.kind, a.ignored) == (b.kind, b.ignored)
    assert bright.image.mean() > 1.2 * dim.image.mean()


def test_crystals_lose_contrast_with_the_light():
    def contrast(light):
        """Mean over crystals of the spread inside one, in grey levels."""
        drops = [draw_drop(seed, light=light, crystals=6, **HALF) for seed in range(3)]
        return np.mean([d.image[i.mask].mean(1).std() for d in drops for i in d.instances])

    assert contrast(0.0) > contrast(0.5) > contrast(1.0)


@pytest.mark.parametrize("count", [0, 1, 7, 60])
def test_the_count_is_honoured(count):
    assert all(len(draw_drop(seed, crystals=count, **HALF).instances) == count for seed in range(2))


def test_counts_lie_between_0_and_60_and_are_mostly_small():
    counts = np.array([drawing._count(np.random.default_rng(i)) for i in range(2000)])
    assert counts.min() == 0
    assert 25 < counts.max() <= 60
    assert 0.01 < np.mean(counts == 0) < 0.08
    assert np.mean((counts >= 1) & (counts <= 12)) > 0.6


def test_crystals_lie_in_the_liquid(drops):
    """All but what sticks out over the rim."""
    inside = [drop.liquid[instance.mask].mean() for drop in drops for instance in drop.instances]
    assert np.mean(inside) > 0.9
    assert all(0.1 < drop.liquid.mean() < 0.95 for drop in drops)


def test_other_kinds_follow_and_plain_drops_are_objects(tmp_path):
    rendering.render_dataset(
        tmp_path / "out", train=1, val=1, more={"plain": 2, "dense": 1}, seed=4, workers=1, **SMALL
    )
    training = COCO(tmp_path / "out" / "train.json")
    assert [image["file_name"][-9:-4] for image in training.loadImgs([1, 2, 3])] == ["00001", "00002", "00003"]
    for number in (2, 3):
        wanted = draw_drop((4, 0, number - 1), **SMALL)
        drawn = training.loadAnns(training.getAnnIds(imgIds=[number]))
        names = [training.cats[annotation["category_id"]]["name"] for annotation in drawn]
        assert names == ["drop", *["crystal"] * len(wanted.instances)]
        assert np.mean(training.annToMask(drawn[0]) != wanted.liquid) < 0.002  # COCO draws borders its own way
    drawn = training.loadAnns(training.getAnnIds(imgIds=[4]))
    assert len(drawn) == len(draw_dense((4, 0, 3), **SMALL).instances)
    assert {training.cats[annotation["category_id"]]["name"] for annotation in drawn} == {"crystal"}
    assert len(COCO(tmp_path / "out" / "val.json").imgs) == 1


def test_a_drawn_count_is_found_in_the_drop(drops):
    assert all(len(drop.instances) <= drawing.MOST_CRYSTALS for drop in drops)
    assert len({len(drop.instances) for drop in drops}) > 5


@pytest.mark.parametrize(
    ("hidden", "height", "ignored"),
    [(0.0, 800, False), (0.70, 800, False), (0.80, 800, True), (0.0, 8000, True)],
)
def test_a_crystal_of_which_too_little_is_visible_is_ignored(monkeypatch, hidden, height, ignored):
    """A square of 20x20 pixels, lower rows covered by another; in the tall image it is under 20 pixels at 512."""
    width = 50

    def scatter(rng, stage, count, light):
        owner = np.zeros((height, width), np.int32)
        owner[10:30, 10:30] = 1
        owner[30 - round(20 * hidden) : 30, 10:30] = 2
        return ["plate", "plate"], [400, 400], owner

    stage = SimpleNamespace(drop=np.ones((height, width)))
    monkeypatch.setattr(drawing, "_set_stage", lambda *args, **kwargs: stage)
    monkeypatch.setattr(drawing, "_scatter", scatter)
    monkeypatch.setattr(drawing, "photograph", lambda *args: np.zeros((height, width, 3), np.uint8))
    assert draw_drop(0, height=height, width=width).instances[0].ignored is ignored


@pytest.mark.parametrize("bad", [{"light": 1.5}, {"light": -0.1}, {"crystals": 61}, {"crystals": -1}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        draw_drop(0, **bad)


# --- crystals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", solids.KINDS[:-1])
def test_solids_are_closed_and_fill_their_size(kind):
    for seed in range(20):
        solid = solids.grow(np.random.default_rng(seed), kind, 100.0)
        flat = solid.corners[:, :2]
        assert np.linalg.norm(flat[:, None] - flat[None], axis=-1).max() == pytest.approx(100)
        edges = {}
        for face in solid.faces:
            for a, b in zip(face, np.roll(face, -1), strict=True):
                edges[frozenset((a, b))] = edges.get(frozenset((a, b)), 0) + 1
        assert set(edges.values()) == {2}  # every edge joins two faces


def test_an_outline_is_the_hull_of_the_corners():
    """A square plate of 20 pixels on a pixel boundary covers exactly its 400 pixels."""
    square = np.array([[-10.0, -10], [10, -10], [10, 10], [-10, 10]])
    plate = solids.stack(square, [(-1, 1.0), (1, 1.0)])
    mask = solids.silhouette([plate], np.array([115.0, 215.0]), (100, 200), (40, 40))
    expected = np.zeros((40, 40), bool)
    expected[5:25, 5:25] = True
    assert (mask ^ expected).sum() <= 4  # OpenCV rounds corners of the finer grid outwards
    assert mask[6:24, 6:24].all()


def test_parallel_faces_let_light_through_and_wedges_do_not():
    look = solids.Look(0.8, np.array([0.1, 0.0]), 0.1, 1.0, 0.0, 1.0, 0.5, 1.0)
    square = np.array([[-20.0, -20], [20, -20], [20, 20], [-20, 20]])
    plate = solids.stack(square, [(-4, 1.0), (4, 1.0)])
    pyramid = solids.stack(square, [(-4, 1.0), (30, 0.05)])
    middle = np.array([30.0, 30.0])
    through = [
        solids.transmit(np.random.default_rng(0), [part], middle, (0, 0), (60, 60), look) for part in (plate, pyramid)
    ]
    assert through[0][25:35, 25:35].mean() > 0.85
    assert through[1][20:40, 20:40].mean() < 0.6
    assert through[0][:3].mean() == pytest.approx(1, abs=0.02)


# --- not too easy -----------------------------------------------------------------------------------------------------


def test_average_precision_on_a_case_done_by_hand():
    a, b, c = (np.arange(12).reshape(1, 12) // 4 == k for k in range(3))
    assert average_precision([a, b], [a, c, b]) == pytest.approx((1 + 2 / 3) / 2)


def test_a_threshold_does_not_find_the_crystals(drops):
    scores = []
    for drop in drops:
        truth = [i.mask for i in drop.instances if not i.ignored]
        if truth:
            ways = (cv2.THRESH_BINARY, cv2.THRESH_BINARY_INV)
            scores.append(max(average_precision(truth, otsu_components(drop.image, way)) for way in ways))
    assert np.mean(scores) < 0.25


# --- a data set -------------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path):
    for name, workers in (("a", 1), ("b", 2)):
        render_dataset(tmp_path / name, train=3, val=2, seed=4, workers=workers, **SMALL)
    first = contents(tmp_path / "a")
    assert len(first) == 2 * 5 + 2
    assert first == contents(tmp_path / "b")


def test_another_seed_or_split_gives_other_drops(dataset, tmp_path):
    render_dataset(tmp_path / "other", train=1, val=1, seed=5, workers=1, **HALF)
    name = "train/images/drop_train_00001.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (dataset / name).read_bytes()
    assert (dataset / name).read_bytes() != (dataset / name.replace("train", "val")).read_bytes()


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_gives_the_masks_back(dataset, split):
    coco = COCO(str(dataset / f"{split}.json"))
    assert coco.dataset["categories"] == [{"id": 1, "name": "crystal", "supercategory": ""}]
    assert sorted(coco.imgs) == list(range(1, len(coco.imgs) + 1))
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for index, image in coco.imgs.items():
        drop = draw_drop((3, ("train", "val").index(split), index - 1), **HALF)
        picture = cv2.imread(str(dataset / split / "images" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)
        assert np.abs(picture[..., ::-1].astype(int) - drop.image).mean() < 4  # JPEG
        annotations = coco.loadAnns(coco.getAnnIds(index))
        assert len(annotations) == len(drop.instances)
        for annotation, instance in zip(annotations, drop.instances, strict=True):
            decoded = coco.annToMask(annotation).astype(bool)
            assert (decoded & instance.mask).sum() / (decoded | instance.mask).sum() >= 0.98
            assert annotation["area"] == instance.mask.sum()
            assert annotation["iscrowd"] == instance.ignored
            assert isinstance(annotation["segmentation"], dict) or not instance.ignored
            packed = rle.encode(np.asfortranarray(instance.mask.astype(np.uint8)))
            assert annotation["bbox"] == rle.toBbox(packed).tolist()


def test_labelme_files_lie_beside_the_images(dataset):
    shapes = 0
    for path in sorted(dataset.rglob("images/*.json")):
        document = json.loads(path.read_text())
        assert set(document) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
        assert document["imagePath"] == path.with_suffix(".jpg").name
        assert path.with_suffix(".jpg").exists()
        assert document["imageData"] is None
        size = document["imageWidth"], document["imageHeight"]
        for shape in document["shapes"]:
            shapes += 1
            assert set(shape) == {"label", "points", "group_id", "description", "shape_type", "flags", "mask"}
            assert shape["label"] == "crystal"
            points = np.array(shape["points"])
            assert len(points) >= 3 if shape["shape_type"] == "polygon" else shape["mask"]
            assert (points >= 0).all()
            assert (points <= size).all()
    assert shapes > 10


def one_drop(monkeypatch, *masks: np.ndarray, ignored: bool = False) -> None:
    instances = tuple(drawing.DrawnCrystal(mask, "plate", ignored) for mask in masks)
    drop = Drop(np.full((*masks[0].shape, 3), 128, np.uint8), instances, np.ones(masks[0].shape, bool))
    monkeypatch.setattr(rendering, "draw_drop", lambda *args, **kwargs: drop)


def test_parts_share_a_group_and_holes_become_rle(monkeypatch, tmp_path):
    split, holed = np.zeros((2, 60, 80), bool)
    split[5:20, 5:20] = split[30:50, 5:20] = True
    holed[5:45, 30:70] = True
    holed[15:35, 40:60] = False
    one_drop(monkeypatch, split, holed)
    render_dataset(tmp_path / "out", train=1, val=0, workers=1, height=60, width=80)
    shapes = json.loads((tmp_path / "out/train/images/drop_train_00001.json").read_text())["shapes"]
    assert [shape["group_id"] for shape in shapes] == [1, 1, None]
    assert [shape["shape_type"] for shape in shapes] == ["polygon", "polygon", "mask"]
    polygons, packed = (a["segmentation"] for a in json.loads((tmp_path / "out/train.json").read_text())["annotations"])
    assert len(polygons) == 2
    assert np.array_equal(rle.decode(packed).astype(bool), holed)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_tiny_masks_keep_an_outline(monkeypatch, tmp_path, side):
    mask = np.zeros((40, 40), bool)
    mask[7 : 7 + side, 9 : 9 + side] = True
    one_drop(monkeypatch, mask, ignored=True)
    render_dataset(tmp_path / "out", train=1, val=0, workers=1)
    annotation = json.loads((tmp_path / "out/train.json").read_text())["annotations"][0]
    assert annotation["iscrowd"] == 1
    assert annotation["bbox"] == [9, 7, side, side]
    assert np.array_equal(rle.decode(annotation["segmentation"]).astype(bool), mask)
    shapes = json.loads((tmp_path / "out/train/images/drop_train_00001.json").read_text())["shapes"]
    assert [shape["flags"] for shape in shapes] == [{"crowd": True}]


def test_progress_is_told_after_each_image(tmp_path):
    told = []
    render_dataset(tmp_path / "out", train=2, val=1, workers=1, progress=lambda *args: told.append(args), **SMALL)
    assert told == [(1, 3), (2, 3), (3, 3)]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_and_an_empty_one_taken(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep")
    with pytest.raises(OutputError, match="not empty; name another folder"):
        render_dataset(tmp_path / "full", train=1, val=0, workers=1)
    assert contents(tmp_path) == {"full/notes.txt": b"keep"}
    with pytest.raises(OutputError):
        render_dataset(tmp_path / "full" / "notes.txt", train=1, val=0, workers=1)
    (tmp_path / "empty").mkdir()
    render_dataset(tmp_path / "empty", train=0, val=1, workers=1, **SMALL)
    assert (tmp_path / "empty" / "val.json").exists()


@pytest.mark.parametrize("error", [RuntimeError("no ink"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(monkeypatch, tmp_path, error):
    def fail_at_the_second(seed, **kwargs):
        if seed[-1] == 1:
            raise error
        return draw_drop(seed, **kwargs)

    monkeypatch.setattr(rendering, "draw_drop", fail_at_the_second)
    with pytest.raises(type(error)):
        render_dataset(tmp_path / "deep" / "out", train=3, val=1, workers=1, **SMALL)
    assert not contents(tmp_path)
    assert not list(tmp_path.rglob("*partial*"))


def test_an_interrupt_between_two_images_stops_the_workers(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path / "out", train=6, val=0, workers=2, progress=interrupt, **SMALL)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file(monkeypatch, tmp_path):
    def write_bytes(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OutputError, match=r"drop_train_00001\.jpg: no space left on device; free some space"):
        render_dataset(tmp_path / "out", train=1, val=0, workers=1, **SMALL)
    assert not list(tmp_path.iterdir())


def test_negative_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="val is -1"):
        render_dataset(tmp_path / "out", train=1, val=-1)
    for settings in ({"more": {"plain": -1}}, {"more": {"dense": 1}, "scenes": "simple"}):
        with pytest.raises(ValueError, match="more is"):
            rendering.render_dataset(tmp_path / "out", train=1, val=0, **settings)


def test_a_colour_lies_where_its_part_does():
    """Parts that begin and end anywhere in a cell: nothing is shifted, and no colour is lost."""
    shape, moved = (64, 96), []
    for top in range(8, 16):
        for left in range(20, 28):
            stage = Stage(np.ones(shape, np.float32), np.ones((16, 24, 3), np.float32), np.ones(shape), True)
            rows, columns = slice(top, top + 13), slice(left, left + 22)
            tint_part(stage, rows, columns, np.ones((13, 22)), np.array([2.0, 1.0, 1.0]))
            added = stage.tint[..., 0] - 1
            assert added.sum() * COARSE**2 == pytest.approx(13 * 22)
            y, x = np.mgrid[:16, :24] * COARSE + COARSE / 2
            moved.append([(added * y).sum() / added.sum() - top - 6.5, (added * x).sum() / added.sum() - left - 11])
            assert (stage.tint[..., 1:] == 1).all()
    assert np.abs(np.mean(moved, 0)).max() < 0.05
    assert np.abs(moved).max() < 0.3, "of a pixel, where a cell has four"
