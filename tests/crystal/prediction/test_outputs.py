"""LabelMe files that find their image, hand-made corrections that survive, a table that measures right."""

import json

import cv2
import numpy as np
from pycocotools import mask as rle_tools

from crystal.data.labelme import to_coco
from crystal.files import name_outputs
from crystal.prediction.outputs import OutputFolder
from crystal.prediction.predictor import Prediction


def disc(height=80, width=100, centre=(50, 40), radius=15):
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, centre, radius, 1, -1)
    return mask


def rle_of(mask):
    return rle_tools.encode(np.asfortranarray(mask))


def prediction(*masks):
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (cv2.boundingRect(m) for m in masks)]
    count, rles = len(masks), [rle_of(m) for m in masks]
    return Prediction(
        np.array(boxes, float), np.linspace(0.9, 0.8, count), np.ones(count, int), rles, np.full(count, 2.0)
    )


def write(out, image_path, *masks):
    classes = ((0, "background"), (1, "crystal"))
    name = name_outputs([image_path])[image_path]
    with OutputFolder(out, classes=classes, score_threshold=0.5, labelme=True) as folder:
        folder.add(image_path, name, np.full((80, 100, 3), 128, np.uint8), prediction(*masks))
        folder.publish()
    return folder


def test_a_labelme_file_finds_its_image(tmp_path):
    image = tmp_path / "images" / "a.png"
    write(tmp_path / "out", image, disc())
    place = tmp_path / "out" / "labelme" / "a.json"
    content = json.loads(place.read_text())
    assert (place.parent / content["imagePath"]).resolve() == image
    assert content["imageData"] is None
    assert (content["imageHeight"], content["imageWidth"]) == (80, 100)
    assert [shape["label"] for shape in content["shapes"]] == ["crystal"]


def test_predicted_labelme_files_convert_to_the_same_instances(tmp_path):
    """With a hole, in two parts, at the border, small; and nothing is written where the images lie."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((80, 100, 3), 128, np.uint8))
    ring, parts = disc(radius=20) & ~disc(radius=8), disc(centre=(8, 8), radius=12) | disc(centre=(90, 70), radius=6)
    masks = [ring, parts, disc(centre=(20, 60), radius=6), disc(centre=(85, 10), radius=9)]
    write(tmp_path / "out", tmp_path / "images" / "a.png", *masks)
    coco, problems = to_coco(tmp_path / "out" / "labelme")
    assert problems == []
    assert len(coco["annotations"]) == len(masks)
    for mask, annotation in zip(masks, coco["annotations"], strict=True):
        outline = annotation["segmentation"]
        back = rle_tools.merge(rle_tools.frPyObjects(outline, 80, 100)) if isinstance(outline, list) else outline
        assert rle_tools.iou([back], [rle_of(mask)], [0])[0, 0] >= 0.98
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["a.png"]


def test_corrected_labelme_files_are_kept_and_untouched_ones_replaced(tmp_path):
    image, place = tmp_path / "a.png", tmp_path / "out" / "labelme" / "a.json"
    write(tmp_path / "out", image, disc())
    first = place.read_text()
    assert write(tmp_path / "out", image, disc(radius=20)).edited == []
    assert place.read_text() != first

    content = json.loads(place.read_text())
    content["shapes"][0]["points"][0][0] += 5.0
    place.write_text(json.dumps(content))
    assert write(tmp_path / "out", image, disc()).edited == [place]
    assert json.loads(place.read_text()) == content
    for name in ("b.png", "c.png"):
        write(tmp_path / "out", tmp_path / name, disc())
    found = sorted(path.name for path in place.parent.iterdir())
    assert found == ["a.json", "c.json"], "b's is of an earlier run, and nobody edited it"


def test_the_table_measures_a_tilted_rectangle(tmp_path):
    corners = cv2.boxPoints(((50, 40), (40, 12), 30)).astype(np.int32)
    mask = np.zeros((80, 100), np.uint8)
    cv2.fillPoly(mask, [corners], 1)
    write(tmp_path / "out", tmp_path / "a.png", mask)
    header, row = (line.split(",") for line in (tmp_path / "out" / "crystals.csv").read_text().splitlines())
    row = dict(zip(header, row, strict=True))
    assert row["image"] == "a.png"
    assert row["crystal"] == "1"
    assert row["zoom"] == "2"
    [annotation] = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    assert annotation["zoom"] == 2
    assert abs(float(row["length_px"]) - 41) < 2
    assert abs(float(row["width_px"]) - 13) < 2
    assert abs(float(row["centre_x"]) - 50) < 1
    assert abs(float(row["centre_y"]) - 40) < 1
