"""The ground truth of one image: from LabelMe and from COCO the same objects, and what does not fit is named."""

import json

import numpy as np
import pytest

from crystal.data.ground_truth import GroundTruthError, read_ground_truth
from tests.inspected import HEIGHT, OBJECTS, WIDTH, write_image

CLASSES = ((0, "background"), (5, "salt"), (9, "crystal"))  # ids and order are the network's own


def write_coco(folder, **changes):
    """DATASET/val.json with the image at DATASET/val/images/."""
    (folder / "val" / "images").mkdir(parents=True)
    image = write_image(folder / "val" / "images")
    annotations = [
        {
            "id": n,
            "image_id": 3,
            "category_id": 7,
            "iscrowd": 0,
            "area": (x2 - x1) * (y2 - y1),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        for n, (x1, y1, x2, y2) in enumerate(OBJECTS, 1)
    ]
    document = {
        "images": [{"id": 3, "file_name": "drop.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "crystal"}],
    }
    (folder / "val.json").write_text(json.dumps(document | changes))
    return image, folder / "val.json"


def read(image, source):
    return read_ground_truth(image, (HEIGHT, WIDTH), source, CLASSES)


def test_labelme_and_coco_say_the_same(tmp_path):
    image, coco = write_coco(tmp_path)
    for source in (image.with_suffix(".json"), coco):
        truth = read(image, source)
        assert (truth.source, truth.record.path, truth.problems) == (source, image, [])
        assert [i.category for i in truth.record.instances] == [2, 2]
        # LabelMe's boxes are of the pixels drawn, COCO's as in the file.
        np.testing.assert_allclose([i.box for i in truth.record.instances], OBJECTS, atol=1.01)


def test_drops_are_judged_where_one_is_outlined(tmp_path):
    """Salt, which nobody outlined either, would have been."""
    image, coco = write_coco(tmp_path)
    classes = (*CLASSES, (11, "drop"))
    assert read_ground_truth(image, (HEIGHT, WIDTH), image.with_suffix(".json"), classes).unlisted == {3}
    assert read_ground_truth(image, (HEIGHT, WIDTH), coco, classes).unlisted == {1, 3}, "the file lists crystals alone"
    content = json.loads(image.with_suffix(".json").read_text())
    content["shapes"][0]["label"] = "drop"
    image.with_suffix(".json").write_text(json.dumps(content))
    assert read_ground_truth(image, (HEIGHT, WIDTH), image.with_suffix(".json"), classes).unlisted == set()


def test_what_was_left_out_is_said(tmp_path):
    image = write_image(tmp_path)
    path = image.with_suffix(".json")
    content = json.loads(path.read_text())
    content["shapes"][1]["shape_type"] = "line"
    content["shapes"][1]["points"] = [[1, 1], [9, 9]]
    path.write_text(json.dumps(content))
    truth = read(image, path)
    assert [instance.crowd for instance in truth.record.instances] == [False, True]
    assert len(truth.problems) == 1
    assert "line" in truth.problems[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not valid JSON"),
        ('{"shapes": 3}', "no list of shapes"),
        ("[]", "has no list of images"),
        (json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "crystal"}]}), "lists no image"),
    ],
)
def test_a_file_of_no_use(tmp_path, text, said):
    image = write_image(tmp_path)
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(GroundTruthError, match=rf"other\.json: .*{said}"):
        read(image, tmp_path / "other.json")
    with pytest.raises(GroundTruthError, match=r"none\.json: cannot be read"):
        read(image, tmp_path / "none.json")


def test_another_class_or_another_size(tmp_path):
    image = write_image(tmp_path, label="ice")
    with pytest.raises(GroundTruthError, match=r"'ice', but the network knows salt, crystal"):
        read(image, image.with_suffix(".json"))
    with pytest.raises(GroundTruthError, match=r"120 x 90 pixels, but drop\.png has 60 x 40"):
        read_ground_truth(image, (40, 60), image.with_suffix(".json"), CLASSES)
    image, coco = write_coco(tmp_path / "coco", categories=[{"id": 7, "name": "ice"}])
    with pytest.raises(GroundTruthError, match=r"\(ice\) is of a class that the network knows \(salt, crystal\)"):
        read(image, coco)
    with pytest.raises(GroundTruthError, match=r"says drop\.png has 120 x 90 pixels, it has 60 x 40"):
        read_ground_truth(image, (40, 60), coco, CLASSES)
