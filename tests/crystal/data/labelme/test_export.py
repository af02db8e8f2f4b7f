"""The way back: masks become a LabelMe file, and `to_coco` of it gives the same masks."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle_tools

from crystal.data.labelme import to_coco
from crystal.data.labelme.export import is_edited, labelme_document, labelme_shapes
from tests.labelme_files import encoded, picture

H, W = 200, 260


def blank():
    return np.zeros((H, W), np.uint8)


def disc(radius, x=100, y=90):
    return cv2.circle(blank(), (x, y), radius, 1, -1)


def ring():
    return disc(40) & ~disc(15)


def two_parts():
    return disc(20, 40, 40) | disc(9, 200, 150)


def needle(width):
    return cv2.line(blank(), (20, 30), (220, 150), 1, width)


def frayed():
    """A blob whose border is noise, with holes and crumbs, as an untrained network's masks have it."""
    noise = cv2.GaussianBlur(np.random.default_rng(3).normal(size=(H, W)), (0, 0), 2)
    return ((noise + (disc(60) * 2.0 - 1) * 0.1) > 0).astype(np.uint8)


def at_the_border():
    mask = blank()
    mask[:30, :50] = mask[-12:, -13:] = 1
    return mask


MASKS = {
    **{f"disc_{r}": disc(r) for r in (6, 8, 12, 25, 80)},
    **{f"needle_{w}": needle(w) for w in (1, 2, 4, 9)},
    **{f"square_{s}": cv2.rectangle(blank(), (50, 60), (49 + s, 59 + s), 1, -1) for s in (1, 2, 3, 12, 13, 40)},
    "ring": ring(),
    "two_parts": two_parts(),
    "frayed": frayed(),
    "at_the_border": at_the_border(),
    "everything": blank() + 1,
}


def rle(mask):
    return rle_tools.encode(np.asfortranarray(mask))


def write(folder, masks):
    (folder / "images").mkdir()
    (folder / "images" / "drop.png").write_bytes(encoded(picture(H, W)))
    (folder / "out").mkdir()
    place = folder / "out" / "drop.json"
    shapes = labelme_shapes([rle(m) for m in masks], ["crystal"] * len(masks), [0.9] * len(masks))
    content = labelme_document(shapes, image=folder / "images" / "drop.png", place=place, height=H, width=W)
    place.write_text(json.dumps(content))
    return place


def read_back(place):
    coco, problems = to_coco(place)
    assert problems == []
    found = []
    for annotation in coco["annotations"]:
        outline = annotation["segmentation"]
        found.append(rle_tools.merge(rle_tools.frPyObjects(outline, H, W)) if isinstance(outline, list) else outline)
    return found


def test_every_kind_of_mask_comes_back(tmp_path):
    """All at once, so that instances are told apart too: IoU of 0.98 or more for each, the smallest included."""
    found = read_back(write(tmp_path, list(MASKS.values())))
    assert len(found) == len(MASKS)
    for (name, mask), back in zip(MASKS.items(), found, strict=True):
        assert rle_tools.iou([back], [rle(mask)], [0])[0, 0] >= 0.98, name


def test_random_masks_come_back(tmp_path):
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(40):
        points = rng.uniform(0, [W, H], (1, 2)) + rng.normal(0, rng.uniform(4, 40), (rng.integers(3, 12), 2))
        mask = cv2.fillPoly(blank(), [np.rint(points).astype(np.int32)], 1)
        if mask.any():
            masks.append(mask)
    found = read_back(write(tmp_path, masks))
    overlaps = [rle_tools.iou([b], [rle(m)], [0])[0, 0] for m, b in zip(masks, found, strict=True)]
    assert min(overlaps) >= 0.98


def test_polygons_where_they_do_and_masks_where_not():
    kinds = {name: [s["shape_type"] for s in labelme_shapes([rle(m)], ["c"], [0.5])] for name, m in MASKS.items()}
    assert kinds["disc_25"] == kinds["square_40"] == ["polygon"]
    assert kinds["two_parts"] == ["polygon", "polygon"]
    assert kinds["square_1"] == ["polygon"]
    assert kinds["ring"] == kinds["frayed"] == ["mask"]


def test_the_fields_that_labelme_wants():
    shapes = labelme_shapes([rle(disc(25)), rle(two_parts()), rle(ring())], ["crystal"] * 3, [0.9, 0.8, 0.71249])
    assert [s["group_id"] for s in shapes] == [None, 2, 2, None]
    assert [s["description"] for s in shapes] == ["score 0.900", "score 0.800", "score 0.800", "score 0.712"]
    for entry in shapes:
        assert set(entry) == {"label", "points", "group_id", "description", "shape_type", "flags", "mask"}
    [(x1, y1), (x2, y2)] = shapes[-1]["points"]
    assert (x1, y1, x2, y2) == (60, 50, 140, 130)  # the last pixel, not the one after it


@pytest.mark.parametrize(
    ("change", "edited"),
    [
        (lambda c: None, False),
        (lambda c: c["shapes"].pop(), True),
        (lambda c: c["shapes"][0]["points"][0].reverse(), True),
        (lambda c: c.pop("predicted"), True),
        (lambda c: c.update(flags={"seen": True}), False),
    ],
)
def test_an_edited_file_is_recognised(tmp_path, change, edited):
    place = write(tmp_path, [disc(25)])
    content = json.loads(place.read_text())
    change(content)
    place.write_text(json.dumps(content))
    assert is_edited(place) is edited
    assert not is_edited(tmp_path / "gone.json")
    place.write_text("[")
    assert is_edited(place)
