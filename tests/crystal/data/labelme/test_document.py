"""What is believed of a LabelMe file: the image of each version, the shapes that can be used, a reason for the rest."""

import base64
import json
import os
import unicodedata

import numpy as np
import pytest

from crystal.data.labelme import document as module
from crystal.data.labelme.coco import convert_file
from crystal.data.labelme.document import LabelmeError, read_document, read_shape
from crystal.data.labelme.labels import LabelRules
from tests.labelme_files import document, encoded, exif, picture, shape, stating

RULES = LabelRules()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.fixture
def drop(tmp_path):
    (tmp_path / "drop.png").write_bytes(encoded(picture()))
    return tmp_path


def test_3_16_2_has_neither_version_nor_shape_type(drop):
    old = {"label": "person-1", "line_color": None, "fill_color": None, "points": [[1, 1], [9, 1], [9, 9]]}
    colours = {"lineColor": [0, 255, 0, 128], "fillColor": [255, 0, 0, 128]}
    path = put(drop / "a.json", {"shapes": [old], **colours, "imagePath": "drop.png", "imageData": None})
    [found] = read_document(path, RULES).shapes
    assert (found.label, found.kind, found.group, found.crowd) == ("person-1", "polygon", None, False)


def test_embedded_data_wins_over_the_path(drop):
    inside = picture(30, 40, seed=5)
    data = base64.b64encode(encoded(inside)).decode()
    assert np.array_equal(convert_file(put(drop / "a.json", document([], data=data))).pixels, inside)
    assert np.array_equal(convert_file(put(drop / "b.json", document([]))).pixels, picture())
    assert np.array_equal(convert_file(put(drop / "c.json", document([], data=""))).pixels, picture())


@pytest.mark.parametrize(
    "image_path", ["drop.png", "./drop.png", "..\\images\\drop.png", "../images/drop.png", "C:\\old\\drop.png"]
)
def test_a_path_is_relative_to_the_json_with_either_slash(tmp_path, image_path):
    place = tmp_path / ("images" if "images" in image_path else "json")
    place.mkdir()
    (place / "drop.png").write_bytes(encoded(picture()))
    path = put(tmp_path / "json" / "a.json", document([], image_path))
    assert np.array_equal(convert_file(path).pixels, picture())


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_image_path_in_another_unicode_form(tmp_path, forms):
    in_json, on_disk = (unicodedata.normalize(form, "Krümel.png") for form in forms)
    (tmp_path / on_disk).write_bytes(encoded(picture()))
    assert np.array_equal(convert_file(put(tmp_path / "a.json", document([], in_json))).pixels, picture())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_referenced_image_and_not_an_embedded_one(tmp_path, orientation):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16] = 255  # top left
    data = encoded(stored, "JPEG", quality=95, exif=exif(orientation))
    (tmp_path / "drop.jpg").write_bytes(data)
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.swapaxes(0, 1), 6: np.rot90(stored, -1), 7: stored[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    height, width = upright.shape[:2]
    size = {"imageHeight": height, "imageWidth": width}
    referenced = convert_file(put(tmp_path / "a.json", document([], "drop.jpg", **size)))
    assert np.abs(referenced.pixels.astype(int) - upright).max() < 20
    embedded = convert_file(put(tmp_path / "b.json", document([], data=base64.b64encode(data).decode())))
    assert np.abs(embedded.pixels.astype(int) - stored).max() < 20
    # Only a file that every reader shows the same way goes into the dataset as it is.
    assert (referenced.encoded == data) is (embedded.encoded == data) is (orientation == 1)
    assert referenced.suffix == embedded.suffix == (".jpg" if orientation == 1 else ".png")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00garbage", "not valid JSON"),
        (b'{"shapes": [', "not valid JSON"),
        (b'{"shapes": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"shapes": [], "x": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        ([1, 2], "no object"),
        ({"version": "5.0.0"}, "no list of shapes"),
        ({"images": [], "annotations": [], "categories": []}, "COCO"),
        ({"shapes": {}}, "no list of shapes"),
        ({"shapes": []}, "neither imageData nor an imagePath"),
        (document([], image_path=7), "neither imageData nor an imagePath"),
        (document([], image_path="a\0b"), "neither imageData nor an imagePath"),
        (document([], image_path="gone.png"), "'gone.png' does not exist"),
        (document([], image_path="\ud800.png"), "does not exist"),
        (document([], image_path="x" * 5000), "does not exist"),
        (document([], image_path="/dev/zero"), "no regular file"),
        (document([], image_path=".."), "no regular file"),
        (document([], image_path="https://example.org/drop.png"), "is an address"),
        (document([], image_path="notes.txt"), "no JPEG, PNG"),
        (document([], data=[1]), "imageData is no text"),
        (document([], data="%%%"), "no JPEG, PNG"),
        (document([], data="abcde"), "imageData is damaged"),
        (document([], data=base64.b64encode(encoded(picture())[:300]).decode()), "is damaged"),
        (document([], imageHeight=100_000, imageWidth=100_000), "states an image of 100000 x 100000"),
        (document([], imageHeight=80, imageWidth=60), "states an image of 60 x 80"),
    ],
)  # fmt: skip
def test_a_file_of_no_use_is_explained(drop, content, said):
    (drop / "notes.txt").write_text("not an image")
    path = put(drop / "a.json", content)
    with pytest.raises(LabelmeError) as caught:
        convert_file(path)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_pipe_or_a_huge_file_is_not_read(drop, monkeypatch):
    os.mkfifo(drop / "pipe.json")
    os.mkfifo(drop / "pipe.png")
    with pytest.raises(LabelmeError, match="no regular file"):
        convert_file(drop / "pipe.json")
    with pytest.raises(LabelmeError, match="no regular file"):
        convert_file(put(drop / "a.json", document([], "pipe.png")))
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(LabelmeError, match="is larger than"):
        convert_file(put(drop / "b.json", document([])))


def test_a_claim_of_many_pixels_is_refused_before_it_is_decoded(drop):
    data = stating(100_000, encoded(picture()))
    path = put(drop / "a.json", document([], data=base64.b64encode(data).decode()))
    with pytest.raises(LabelmeError, match="more than 178 megapixels"):
        convert_file(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": None}, "label is None"),
        ({"label": "  "}, "must be a name"),
        ({"shape_type": "blob"}, "does not know"),
        ({"shape_type": ["polygon"]}, "does not know"),
        ({"shape_type": "line"}, "a line (crystal) covers no area"),
        ({"shape_type": "linestrip"}, "covers no area"),
        ({"shape_type": "point"}, "covers no area"),
        ({"shape_type": "points"}, "covers no area"),
        ({"points": None}, "no points"),
        ({"points": []}, "no points"),
        ({"points": [[1, 2], [3, 4]]}, "polygon of 2 point(s)"),
        ({"points": [[1, 2], [3, 4], [5]]}, "list of [x, y]"),
        ({"points": ["ab", "cd", "ef"]}, "list of [x, y]"),
        ({"points": [[1, 2], [3, 4], ["5", 6]]}, "not a pair of usable numbers"),
        ({"points": [[1, 2], [3, 4], [True, 6]]}, "not a pair of usable numbers"),
        ({"points": [[1, 2], [3, 4], [float("nan"), 6]]}, "not a pair of usable numbers"),
        ({"points": [[1, 2], [3, 4], [float("inf"), 6]]}, "not a pair of usable numbers"),
        ({"points": [[1, 2], [3, 4], [10**400, 6]]}, "not a pair of usable numbers"),
        ({"points": [[1, 2], [3, 4], [5, 6]], "shape_type": "rectangle"}, "rectangle of 3 point(s)"),
        ({"points": [[1, 2]], "shape_type": "circle"}, "circle of 1 point(s)"),
        ({"group_id": [1]}, "group_id"),
        ({"group_id": True}, "group_id"),
        ({"group_id": 1.5}, "group_id"),
        ({"shape_type": "mask", "points": [[1, 2], [3, 4]]}, "without mask data"),
        ({"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "abcde"}, "damaged"),
    ],
)
def test_a_shape_of_no_use_is_explained(change, said):
    with pytest.raises(LabelmeError) as caught:
        read_shape(shape() | change, 1)
    assert said in str(caught.value)


def test_one_bad_shape_does_not_cost_the_others(drop):
    path = put(drop / "a.json", document([shape(), None, shape(kind="point", points=[(1, 1)]), shape("\x1b[31mred\n")]))
    found = read_document(path, RULES)
    assert [s.number for s in found.shapes] == [1, 4]
    assert [str(p) for p in found.problems] == [
        f"{path}: shape 2: left out: it is no object",
        f"{path}: shape 3: left out: a point (crystal) covers no area",
    ]
    assert found.shapes[1].label == "\\x1b[31mred"  # nothing that a terminal would obey


def test_what_the_rules_drop_is_no_problem(drop):
    click = shape("user_click", [(1, 1)], "point")
    path = put(drop / "a.json", document([click, shape("__ignore__"), shape("_background_"), shape()]))
    assert [p.shape for p in read_document(path, RULES).problems] == [1]
    found = read_document(path, LabelRules.parse(["user_click="]))
    assert (len(found.shapes), found.problems) == (1, ())
