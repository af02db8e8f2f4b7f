"""LabelMe to COCO: ids, categories, areas, polygons or run lengths, problems; and other people's files, if at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from crystal.data.dataset import load_split
from crystal.data.labelme import LabelRules, to_coco
from crystal.data.labelme.coco import convert_file
from tests.labelme_files import drawn, mask_shape, shape, write
from tests.tiff_files import tiff

SHARED = Path(__file__).parents[4] / ".." / "shared" / "data" / "labelme"
SQUARE = [(50, 10), (70, 10), (70, 30), (50, 30)]
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"other people's LabelMe files are not at {SHARED}")


def pixels(coco, annotation):
    size = next((i["height"], i["width"]) for i in coco["images"] if i["id"] == annotation["image_id"])
    outline = annotation["segmentation"]
    if isinstance(outline, list):
        return rle_tools.decode(rle_tools.merge(rle_tools.frPyObjects(outline, *size))).astype(bool)
    return rle_tools.decode(outline).astype(bool)


def holed():
    mask = np.ones((20, 20), bool)
    mask[5:15, 5:15] = False
    return mask


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "a", "one", [shape(), shape(points=SQUARE), shape("ice"), shape("__ignore__")])
    write(tmp_path / "a", "none", [], seed=1)
    parts = [shape(group_id=3), shape(points=SQUARE, group_id=3), mask_shape(holed(), 20, 35)]
    write(tmp_path / "b", "one", [*parts, shape(points=[(1, 1)], kind="point")], seed=2)
    return tmp_path


def test_a_coco_document(folder):
    coco, problems = to_coco([folder])
    assert [(i["id"], i["file_name"], i["height"], i["width"]) for i in coco["images"]] == [
        (1, "none.png", 60, 80),
        (2, "one.png", 60, 80),
        (3, "b_one.png", 60, 80),
    ]
    assert [(c["id"], c["name"]) for c in coco["categories"]] == [(1, "crystal"), (2, "ice")]
    assert [(a["id"], a["image_id"], a["category_id"], a["iscrowd"]) for a in coco["annotations"]] == [
        *((1, 2, 1, 0), (2, 2, 1, 0), (3, 2, 2, 0), (4, 3, 1, 0), (5, 3, 1, 0)),
        (6, 3, 1, 1),  # a point, which cannot be used: a region to ignore
    ]
    for annotation in coco["annotations"]:
        mask = pixels(coco, annotation)
        assert annotation["area"] == mask.sum()
        (rows, columns), (x, y, w, h) = np.nonzero(mask), annotation["bbox"]
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    two_parts, with_hole, _ = coco["annotations"][3:]
    assert len(two_parts["segmentation"]) == 2  # polygons say it
    assert set(with_hole["segmentation"]) == {"size", "counts"}  # only run lengths do
    assert with_hole["area"] == 400 - 100
    assert [str(p) for p in problems] == [
        f"{folder / 'b' / 'one.json'}: shape 4: left out: a point (crystal) covers no area"
    ]


def test_what_is_written_is_what_pycocotools_and_the_loader_read(folder):
    coco, _ = to_coco([folder])
    for name in ("none", "one"):
        (folder / f"{name}.png").write_bytes((folder / "a" / f"{name}.png").read_bytes())
    (folder / "b_one.png").write_bytes((folder / "b" / "one.png").read_bytes())
    (folder / "train.json").write_text(json.dumps(coco))
    read = COCO(str(folder / "train.json"))
    assert [read.annToMask(a).sum() for a in coco["annotations"]] == [a["area"] for a in coco["annotations"]]
    split = load_split(folder, "train")
    assert split.problems == ()
    assert [len(record.instances) for record in split.records] == [0, 3, 3]


def test_files_and_folders_may_be_named_in_any_mixture(folder):
    one = folder / "a" / "one.json"
    assert [i["file_name"] for i in to_coco(one)[0]["images"]] == ["one.png"]
    assert [i["file_name"] for i in to_coco([str(one), folder / "a", one])[0]["images"]] == ["one.png", "none.png"]
    (folder / "notes.txt").write_text("")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.json").write_text("")
    coco, problems = to_coco([folder, folder / "gone"])
    assert len(coco["images"]) == 3
    assert "no such file or folder" in str(problems[0])
    assert to_coco([])[0]["images"] == []


def test_rules_rename_and_drop(folder):
    coco, problems = to_coco([folder], rules=LabelRules.parse(["ice=crystal"]))
    assert [c["name"] for c in coco["categories"]] == ["crystal"]
    assert [a["iscrowd"] for a in coco["annotations"]] == [0] * 5 + [1]
    assert len(problems) == 1


def test_a_sliver_and_a_crowd_become_run_lengths(tmp_path):
    sliver = shape(points=[(10.1, 10.1), (30.1, 10.1), (30.1, 10.2)])
    write(tmp_path, "a", [sliver, shape(flags={"crowd": True})])
    coco, problems = to_coco(tmp_path)
    assert problems == []
    assert [a["iscrowd"] for a in coco["annotations"]] == [0, 1]
    assert all(isinstance(a["segmentation"], dict) for a in coco["annotations"])
    assert [a["area"] for a in coco["annotations"]] == [21, 30 * 20]


@pytest.mark.parametrize(("encoding", "label"), [("GBK", "晶体"), ("CP1252", "Kristall groß")])
def test_another_encoding_than_utf_8_is_named_with_the_remedy(tmp_path, encoding, label):
    path = write(tmp_path, "a", [shape(label)])
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding=encoding)
    (problem,) = to_coco(tmp_path)[1]
    said = f"is not in UTF-8, but looks like {encoding}; convert it, for example with `iconv -f {encoding} -t UTF-8"
    assert said in str(problem)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        text = write(tmp_path, "a", [shape(label)]).read_text()
        path.write_text(json.dumps(json.loads(text), ensure_ascii=False), encoding=encoding)
        assert to_coco(tmp_path)[0]["categories"][0]["name"] == label


@pytest.mark.parametrize("order", "<>")
def test_images_in_big_tiff(tmp_path, order):
    path = write(tmp_path, "a", [shape()])
    grey = np.random.default_rng(0).integers(0, 4096, (60, 80)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(tiff(grey, grey // 2, big=True, order=order))
    converted = convert_file(path)
    assert converted.problems == []
    assert converted.pixels.shape == (60, 80, 3)


SQUARE = ((10, 10), (40, 10), (40, 30), (10, 30))
TURNED = ((30, 10), (40, 20), (30, 30), (20, 20))


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("rectangle", SQUARE),
        ("rectangle", TURNED),
        ("rotation", TURNED),
        ("oriented_rectangle", TURNED),
        ("quadrilateral", TURNED),
        ("rectangle", (*SQUARE, SQUARE[0])),
        ("rectangle", (SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3])),
    ],
)
def test_rectangles_of_four_corners_are_polygons(tmp_path, kind, points):
    """As X-AnyLabeling writes them, axis-parallel or turned."""
    outline = TURNED if points == TURNED else SQUARE
    write(tmp_path, "a", [shape(points=points, kind=kind, direction=0.785), shape(points=outline)])
    coco, problems = to_coco(tmp_path)
    assert problems == []
    first, second = coco["annotations"]
    assert (first["bbox"], first["area"]) == (second["bbox"], second["area"])
    assert all(len(annotation["segmentation"][0]) == 8 for annotation in (first, second))


@pytest.mark.parametrize(
    ("bad", "box"),
    [
        (shape("needle", [(10, 10), (50, 20)], "line"), [10, 7, 40, 16]),
        (shape("needle", [(10, 10), (50, 40)], "rotation"), [10, 10, 40, 30]),
        (shape("needle", [(10, 10), (50, 40)], "heptagon"), [10, 10, 40, 30]),
        (shape(None, [(10, 10), (50, 40), (20, 40)]), [10, 10, 40, 30]),
        (shape("needle", [(40, 30), (50, 30)], "circle", group_id=[1]), [37, 22, 16, 16]),
        (shape("needle", [(20, 20), (39, 39)], "mask", mask="AAAA"), [20, 20, 19, 19]),
        (shape("needle", [(2, 3)], "point"), [0, 0, 10, 11]),
    ],
)
def test_the_place_of_a_shape_that_cannot_be_used_is_ignored(tmp_path, bad, box):
    """It is no background; and its label, which no object has, makes no category."""
    write(tmp_path, "a", [bad, shape()])
    coco, problems = to_coco(tmp_path)
    assert [problem.shape for problem in problems] == [1]
    assert [category["name"] for category in coco["categories"]] == ["crystal"]
    assert [(a["iscrowd"], a["category_id"]) for a in coco["annotations"]] == [(0, 1), (1, 1)]
    x, y, w, h = coco["annotations"][1]["bbox"]
    assert np.abs(np.subtract([x, y, w, h], box)).max() <= 6 if bad["shape_type"] == "circle" else [x, y, w, h] == box


def test_a_shape_without_a_place_is_only_listed(tmp_path):
    write(tmp_path, "a", [shape(points=[(200, 200), (300, 200), (300, 300)]), shape(points=[]), shape()])
    coco, problems = to_coco(tmp_path)
    assert len(problems) == 2
    assert len(coco["annotations"]) == 1


def test_an_outline_over_the_border_is_cut(tmp_path):
    write(tmp_path, "a", [shape(points=[(-20, -20), (40, -20), (40, 30), (-20, 30)])])
    [annotation] = to_coco(tmp_path)[0]["annotations"]
    assert annotation["bbox"] == [0, 0, 40, 30]
    assert annotation["area"] == 40 * 30


def test_the_loader_agrees_with_the_box_of_a_spike(tmp_path):
    """No pixel's centre lies in the last 30 pixels of the spike."""
    write(tmp_path, "a", [shape(points=[(10, 10), (20, 10), (20, 14.9), (70, 15), (20, 15.1), (20, 20), (10, 20)])])
    coco, _ = to_coco(tmp_path)
    [annotation] = coco["annotations"]
    assert annotation["bbox"] == [10, 10, 60, 10]
    assert annotation["area"] == pixels(coco, annotation).sum()
    (tmp_path / "train.json").write_text(json.dumps(coco))
    split = load_split(tmp_path, "train")
    assert split.problems == ()
    assert split.records[0].instances[0].box == (10, 10, 70, 20)


def test_one_odd_file_does_not_cost_the_others(folder, monkeypatch):
    from crystal.data.labelme import coco as module

    def odd(path, rules):
        if "none" in path.name:
            raise MemoryError("out of memory")
        return real(path, rules)

    real = module.convert_file
    monkeypatch.setattr(module, "convert_file", odd)
    coco, problems = to_coco([folder])
    assert len(coco["images"]) == 2
    assert "unforeseen error (MemoryError: out of memory)" in str(problems[0])


@needs_shared
def test_3_16_2_and_5_say_the_same_of_the_same_photographs():
    """The current examples are those of 3.16.2 with group_id instead of suffixes, moved by a pixel or two."""
    old, _ = to_coco(SHARED / "v3.16.2" / "instance_segmentation" / "data_annotated")
    new, _ = to_coco(SHARED / "v5" / "instance_segmentation" / "data_annotated")
    assert [c["name"] for c in old["categories"]] == ["bottle", "bus", "car", "chair", "person", "sofa"]
    assert old["categories"] == new["categories"]
    sofa = 6  # one of four parts now, four without a number then
    for first, second in zip(
        *([a for a in coco["annotations"] if a["category_id"] != sofa] for coco in (old, new)), strict=True
    ):
        assert (first["image_id"], first["category_id"]) == (second["image_id"], second["category_id"])
        assert np.abs(np.subtract(first["bbox"], second["bbox"])).max() <= 2
        assert first["area"] == pytest.approx(second["area"], rel=0.01)
    assert [len([a for a in c["annotations"] if a["category_id"] == sofa]) for c in (old, new)] == [4, 1]


@needs_shared
def test_polygons_of_real_files_lie_where_labelme_draws_them():
    path = SHARED / "crystal" / "loop_crystal_v4.json"
    coco, problems = to_coco(path)
    shapes = [s for s in json.loads(path.read_text())["shapes"] if s["shape_type"] == "polygon"]
    assert [str(p).split(": ", 1)[1] for p in problems] == ["shape 4: left out: a point (user_click) covers no area"]
    assert [a["iscrowd"] for a in coco["annotations"]] == [0] * len(shapes) + [1]
    assert len(shapes) == 10
    for annotation, entry in zip(coco["annotations"], shapes, strict=False):
        mask, theirs = pixels(coco, annotation), drawn(1024, 1360, entry["points"])
        assert (mask & theirs).sum() / (mask | theirs).sum() > 0.93  # PIL's outline is half a pixel wider


@needs_shared
def test_every_shape_of_the_primitives_is_converted_or_explained():
    for version in ("v3.16.2", "v5"):
        path = SHARED / version / "primitives" / "primitives.json"
        coco, problems = to_coco(path)
        objects = sum(not annotation["iscrowd"] for annotation in coco["annotations"])
        assert objects + len(problems) == len(json.loads(path.read_text())["shapes"])
        assert len(coco["annotations"]) == objects + len(problems)  # each of these has a place
        assert [p.text.split("(")[0] for p in problems] == [f"left out: a {k} " for k in ("line", "point", "linestrip")]
