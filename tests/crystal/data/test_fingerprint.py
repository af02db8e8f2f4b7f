"""The hash of a split: the same for the same content, another for any change of it."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from crystal.data.coco_file import DatasetError
from crystal.data.dataset import load_split
from crystal.data.fingerprint import fingerprint

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]


def document() -> dict:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [10, 10, 20, 20]}
    return {
        "images": [{"id": k, "file_name": f"{k}.png", "height": 40, "width": 50} for k in (1, 2)],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "crystal"}],
    }


def write(root: Path, coco: dict, *, pixel: int = 0, indent: int | None = None) -> Path:
    (root / "train/images").mkdir(parents=True, exist_ok=True)
    for k in (1, 2):
        image = np.random.default_rng(k).integers(0, 255, (40, 50, 3), np.uint8)
        image[3, 4, 1] += pixel
        cv2.imwrite(str(root / f"train/images/{k}.png"), image)
    (root / "train.json").write_text(json.dumps(coco, indent=indent))
    return root


def of(root: Path) -> str:
    return fingerprint(load_split(root, "train"))


def test_where_it_lies_and_how_it_is_written_do_not_count(tmp_path):
    here = of(write(tmp_path / "here", document()))
    assert len(here) == 32
    assert of(write(tmp_path / "there", document(), indent=2)) == here
    (tmp_path / "other/annotations").mkdir(parents=True)
    shutil.copytree(tmp_path / "here/train/images", tmp_path / "other/train2017")
    shutil.copy(tmp_path / "here/train.json", tmp_path / "other/annotations/instances_train2017.json")
    assert of(tmp_path / "other") == here


def test_every_change_of_content_counts(tmp_path):
    changes = {"as it is": write(tmp_path / "0", document()), "a pixel": write(tmp_path / "1", document(), pixel=1)}
    for name, change in {
        "a corner": lambda c: c["annotations"][0]["segmentation"][0].__setitem__(0, 10.5),
        "a crowd": lambda c: c["annotations"][0].update(iscrowd=1),
        "a category's name": lambda c: c["categories"][0].update(name="loop"),
        "another object": lambda c: c["annotations"].append(c["annotations"][0] | {"id": 2}),
        "the other image's object": lambda c: c["annotations"][0].update(image_id=2),
        "one image less": lambda c: c["images"].pop(),
        "another order": lambda c: c["images"].reverse(),
    }.items():
        coco = document()
        change(coco)
        changes[name] = write(tmp_path / name, coco)
    found = {name: of(root) for name, root in changes.items()}
    assert len(set(found.values())) == len(found), found


def test_an_image_that_is_gone(tmp_path):
    split = load_split(write(tmp_path, document()), "train")
    (tmp_path / "train/images/2.png").unlink()
    with pytest.raises(DatasetError, match=r"2\.png: cannot be read"):
        fingerprint(split)
    seen = []
    fingerprint(split._replace(records=split.records[:1]), progress=seen.append)
    assert seen == [1]
