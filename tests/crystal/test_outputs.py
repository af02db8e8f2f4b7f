"""Names that do not collide, LabelMe files that fit their masks, and hand-made corrections that survive."""

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle_tools

from crystal.outputs import OutputFolder, labelme_shapes, name_outputs
from crystal.predict import Prediction


def disc(height=80, width=100, centre=(50, 40), radius=15):
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, centre, radius, 1, -1)
    return mask


def rle_of(mask):
    return rle_tools.encode(np.asfortranarray(mask))


def prediction(*masks):
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (cv2.boundingRect(m) for m in masks)]
    return Prediction(
        np.array(boxes, float), np.linspace(0.9, 0.8, len(masks)), np.ones(len(masks), int), [rle_of(m) for m in masks]
    )


def write(out, image_path, *masks):
    classes = ((0, "background"), (1, "crystal"))
    name = name_outputs([image_path])[image_path]
    with OutputFolder(out, classes=classes, score_threshold=0.5, labelme=True) as folder:
        folder.add(image_path, name, np.full((80, 100, 3), 128, np.uint8), prediction(*masks))
        folder.publish()
    return folder


def test_names_of_images_in_two_folders_differ():
    paths = [Path("p/a/1.jpg"), Path("p/b/1.jpg"), Path("q/b/1.jpg"), Path("q/b/b_1.jpg"), Path("p/a/1.jpg")]
    names = name_outputs(paths)
    assert list(names) == paths[:4]  # a file that is given twice is one file
    assert len({name.stem.casefold() for name in names.values()}) == 4
    assert [n.file_name for n in names.values()] == ["p/a/1.jpg", "p/b/1.jpg", "q/b/1.jpg", "q/b/b_1.jpg"]
    assert name_outputs([Path("x/1.jpg"), Path("y/2.jpg")])[Path("y/2.jpg")] == ("2.jpg", "2")
    assert name_outputs([]) == {}


def test_polygons_fill_to_the_mask():
    two_parts = disc(centre=(20, 20), radius=10) | disc(centre=(80, 60), radius=12)
    shapes = labelme_shapes([rle_of(disc()), rle_of(two_parts)], ["crystal"] * 2, [0.9, 0.8])
    assert [shape["group_id"] for shape in shapes] == [None, 2, 2]
    assert [shape["description"] for shape in shapes] == ["score 0.900", "score 0.800", "score 0.800"]
    for wanted, own in ((disc(), shapes[:1]), (two_parts, shapes[1:])):
        filled = np.zeros_like(wanted)
        for shape in own:
            cv2.fillPoly(filled, [np.array(shape["points"], np.int32)], 1)
        assert (filled & wanted).sum() / (filled | wanted).sum() > 0.95


def test_a_labelme_file_finds_its_image(tmp_path):
    image = tmp_path / "images" / "a.png"
    write(tmp_path / "out", image, disc())
    place = tmp_path / "out" / "labelme" / "a.json"
    content = json.loads(place.read_text())
    assert (place.parent / content["imagePath"]).resolve() == image
    assert content["imageData"] is None
    assert (content["imageHeight"], content["imageWidth"]) == (80, 100)
    assert [shape["label"] for shape in content["shapes"]] == ["crystal"]


def test_corrected_labelme_files_are_kept_and_untouched_ones_replaced(tmp_path):
    image, place = tmp_path / "a.png", tmp_path / "out" / "labelme" / "a.json"
    write(tmp_path / "out", image, disc())
    first = place.read_text()
    assert write(tmp_path / "out", image, disc(radius=20)).kept == []
    assert place.read_text() != first

    content = json.loads(place.read_text())
    content["shapes"][0]["points"][0][0] += 5.0
    place.write_text(json.dumps(content))
    assert write(tmp_path / "out", image, disc()).kept == [place]
    assert json.loads(place.read_text()) == content


def test_the_table_measures_a_tilted_rectangle(tmp_path):
    corners = cv2.boxPoints(((50, 40), (40, 12), 30)).astype(np.int32)
    mask = np.zeros((80, 100), np.uint8)
    cv2.fillPoly(mask, [corners], 1)
    write(tmp_path / "out", tmp_path / "a.png", mask)
    header, row = (line.split(",") for line in (tmp_path / "out" / "crystals.csv").read_text().splitlines())
    row = dict(zip(header, row, strict=True))
    assert row["image"] == "a.png"
    assert row["crystal"] == "1"
    assert abs(float(row["length_px"]) - 41) < 2
    assert abs(float(row["width_px"]) - 13) < 2
    assert abs(float(row["centre_x"]) - 50) < 1
    assert abs(float(row["centre_y"]) - 40) < 1
