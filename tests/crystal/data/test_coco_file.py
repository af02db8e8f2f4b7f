"""Splits as other programs lay them out, found by one function for all commands."""

import json

import numpy as np
import pytest
from PIL import Image

from crystal.data.check import check
from crystal.data.coco_file import DatasetError, find_json, find_splits, has_split
from crystal.data.dataset import load_split
from tests.labelme_files import shape
from tests.labelme_files import write as write_labelme

CATEGORIES = [{"id": 1, "name": "crystal", "supercategory": ""}]


def put(root, layout, categories=None, category=1):
    """layout: JSON file -> folder of its image, all empty but for one object."""
    for number, (json_name, folder) in enumerate(layout.items()):
        image = {"id": 0, "file_name": f"{number}.png", "height": 20, "width": 30}
        outline = [2, 2, 12, 2, 12, 12, 2, 12]
        thing = {"id": 1, "image_id": 0, "category_id": category, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0}
        document = {"images": [image], "annotations": [thing | {"segmentation": [outline]}]}
        for path in (root / json_name, root / folder / "x"):
            path.parent.mkdir(parents=True, exist_ok=True)
        (root / json_name).write_text(json.dumps(document | {"categories": categories or CATEGORIES}))
        noise = np.random.default_rng(number).integers(0, 255, (20, 30), np.uint8)
        Image.fromarray(noise).save(root / folder / f"{number}.png")
    return root


LAYOUTS = {
    "ours": {"train.json": "train/images", "val.json": "val/images"},
    "COCO": {
        "annotations/instances_train2017.json": "train2017",
        "annotations/instances_val2017.json": "val2017",
    },
    "COCO, images in a folder": {
        "annotations/instances_train2017.json": "images/train2017",
        "annotations/instances_val2017.json": "images/val2017",
    },
    "Roboflow": {"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"},
    "CVAT": {
        "annotations/instances_Train.json": "images/Train",
        "annotations/instances_Validation.json": "images/Validation",
    },
    "CVAT, without a subset for training": {
        "annotations/instances_default.json": "images/default",
        "annotations/instances_val.json": "images/val",
    },
    "others": {"train/annotations.json": "train/images", "validation/annotations.json": "validation/images"},
    "names": {"train_annotations.json": "images", "annotations_valid.json": "images"},
    "a mixture": {"annotations/train.json": "images/train", "val/labels.json": "val"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_of_every_layout(tmp_path, name):
    layout = LAYOUTS[name]
    put(tmp_path, layout)
    files = dict(zip(("train", "val"), (tmp_path / path for path in layout), strict=True))
    assert find_splits(tmp_path) == files
    assert {split: find_json(tmp_path, split) for split in ("train", "val", "valid")} == files | {"valid": files["val"]}
    assert not has_split(tmp_path, "test")
    assert [has_split(tmp_path, split) for split in ("train", "val")] == [True, True]
    for number, (split, folder) in enumerate(zip(("train", "val"), layout.values(), strict=True)):
        (record,) = load_split(tmp_path, split).records
        assert record.path.samefile(tmp_path / folder / f"{number}.png")
        assert len(record.instances) == 1
    assert not [p for own in check(tmp_path, slots=4).problems.values() for p in own]


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("annotations/instances_default.json", "images"),
        ("annotations/instances_default.json", "images/default"),
        ("result.json", "images"),
        ("_annotations.coco.json", "."),
        ("labels.json", "data"),
    ],
)
def test_a_single_file_of_another_name_is_the_training_split(tmp_path, path, folder):
    put(tmp_path, {path: folder})
    assert find_splits(tmp_path) == {"train": tmp_path / path}
    assert len(load_split(tmp_path, "train").records) == 1
    assert not has_split(tmp_path, "val")
    with pytest.raises(
        DatasetError, match=r"no annotations for the split 'val' \(there are .*\); put a COCO file there"
    ):
        find_json(tmp_path, "val")
    assert not has_split(tmp_path / path, "val")  # of a file the training images would be the validation's


def test_two_years_and_other_files_beside_them(tmp_path):
    names = [
        f"annotations/{kind}_{split}.json" for kind in ("instances", "captions") for split in ("val2014", "val2017")
    ]
    put(tmp_path, {name: "images" for name in names})
    assert list(find_splits(tmp_path)) == ["val", "val2017"]
    assert find_json(tmp_path, "val2017").name == "instances_val2017.json"
    put(tmp_path, {"train.json": "images"})
    (tmp_path / "info.json").write_text('{"version": 1}')
    (tmp_path / "empty").mkdir()
    assert list(find_splits(tmp_path)) == ["train", "val", "val2017"]


def root_of(*names):
    listed = [{"id": 0, "name": "things", "supercategory": "none"}]
    return listed + [{"id": k, "name": name, "supercategory": "things"} for k, name in enumerate(names, 1)]


def test_a_root_category_is_no_class(tmp_path):
    """Roboflow's, of which the others are kinds and which no annotation uses."""
    put(tmp_path / "a", {"train.json": "images"}, root_of("crystal", "needle"))
    assert load_split(tmp_path / "a", "train").categories == ((0, "background"), (1, "crystal"), (2, "needle"))
    put(tmp_path / "used", {"train.json": "images"}, root_of("crystal"), category=0)
    assert [name for _, name in load_split(tmp_path / "used", "train").categories] == [
        "background",
        "things",
        "crystal",
    ]
    plain = [{"id": 0, "name": "drop", "supercategory": "none"}, {"id": 1, "name": "crystal", "supercategory": "none"}]
    put(tmp_path / "plain", {"train.json": "images"}, plain)
    assert [name for _, name in load_split(tmp_path / "plain", "train").categories] == ["background", "drop", "crystal"]
    own = [{"id": 1, "name": "crystal", "supercategory": "crystal"}]  # as COCO's person
    put(tmp_path / "own", {"train.json": "images"}, own)
    assert load_split(tmp_path / "own", "train").categories == ((0, "background"), (1, "crystal"))


@pytest.mark.parametrize("inside", ["", "train"])
def test_labelme_files_are_to_be_converted(tmp_path, inside):
    path = write_labelme(tmp_path / inside, "drop", [shape()])
    for find in (lambda: find_json(tmp_path, "train"), lambda: find_splits(tmp_path)):
        with pytest.raises(DatasetError, match="LabelMe files: make a dataset of them with `crystal convert "):
            find()
    with pytest.raises(DatasetError, match="is a LabelMe file; make a dataset of such files with `crystal convert "):
        load_split(path, "train")
