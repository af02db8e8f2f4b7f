"""The folder of LabelMe 3.16.2, byte for byte where that can be said, and the masks beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_tools

from crystal.data.labelme.coco import convert_file
from crystal.data.labelme.folder import draw_viz, write_folder
from crystal.prediction.overlays import voc_colours
from tests.labelme_files import document, drawn, encoded, picture, shape, write

SAMPLE = Path(__file__).parents[4] / ".." / "shared" / "data" / "labelme" / "v3.16.2" / "tutorial"
BELOW = [(5, 5), (50, 5), (50, 45), (5, 45)]
ABOVE = [(30, 30), (70, 30), (70, 55), (30, 55)]


def made(tmp_path, shapes, **more):
    converted = convert_file(write(tmp_path, "drop", shapes, **more))
    write_folder(tmp_path / "drop_json", converted)
    return tmp_path / "drop_json", converted


def test_the_files_and_what_they_say(tmp_path):
    # As annotated: the one drawn last lies on top, and names are sorted, so it has the lower value.
    folder, converted = made(tmp_path, [shape("xtal", BELOW), shape("bubble", ABOVE)])
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == [
        *("img.png", "info.yaml", "label.png", "label_names.txt", "label_viz.png"),
        *("masks/001_bubble.png", "masks/002_xtal.png"),
    ]
    assert (folder / "label_names.txt").read_bytes() == b"_background_\nbubble\nxtal\n"
    assert (folder / "info.yaml").read_bytes() == b"label_names:\n- _background_\n- bubble\n- xtal\n"
    assert np.array_equal(np.array(Image.open(folder / "img.png")), picture())
    label = Image.open(folder / "label.png")
    assert label.mode == "P"
    assert np.array_equal(np.reshape(label.getpalette(), (-1, 3))[:255], voc_colours(255))
    wanted = np.where(drawn(60, 80, BELOW), 2, 0)
    wanted[drawn(60, 80, ABOVE)] = 1
    assert np.array_equal(np.array(label), wanted)
    for name, rle in zip(("002_xtal", "001_bubble"), converted.rles, strict=True):
        mask = Image.open(folder / "masks" / f"{name}.png")
        assert mask.mode == "1"
        assert np.array_equal(np.array(mask), rle_tools.decode(rle))


def test_instances_have_names_and_values_of_their_own(tmp_path):
    folder, _ = made(tmp_path, [shape("crystal", BELOW), shape("crystal", ABOVE), shape("yes: no", ABOVE)])
    assert (folder / "label_names.txt").read_text().split("\n") == [
        "_background_",
        "crystal-1",
        "crystal-2",
        "yes: no",
        "",
    ]
    assert (folder / "info.yaml").read_text() == "label_names:\n- _background_\n- crystal-1\n- crystal-2\n- 'yes: no'\n"


def test_names_are_sorted_as_texts_and_parts_share_a_value(tmp_path):
    places = [[(x, y), (x + 5, y), (x + 5, y + 5), (x, y + 5)] for y in (5, 20) for x in range(5, 70, 10)]
    folder, _ = made(tmp_path, [shape("c", p) for p in places[:11]] + [shape("d-1", p) for p in places[11:13]])
    names = (folder / "label_names.txt").read_text().split()
    assert names == ["_background_", "c-1", "c-10", "c-11", *(f"c-{i}" for i in range(2, 10)), "d-1"]
    label = np.array(Image.open(folder / "label.png"))
    assert [names[label[y + 2, x + 2]] for (x, y), *_ in places[:13]] == [f"c-{i}" for i in range(1, 12)] + ["d-1"] * 2


def test_label_viz_is_half_grey_half_colour_with_a_legend(tmp_path):
    image, label = picture(200, 300), np.zeros((200, 300), np.uint8)
    label[20:80, 20:80] = 2
    names = ["_background_", "absent", "crystal"]
    grey = np.array(Image.fromarray(image).convert("L"))[..., None]
    wanted = (0.5 * voc_colours(3)[label] + 0.5 * grey).astype(np.uint8)
    for own in (label, label.astype(np.int32)):  # the second: as it is where there are more than 254 names
        viz = draw_viz(image, own, names)
        differs = np.abs(viz.astype(int) - wanted).max(-1) > 1  # OpenCV and PIL round grey differently
        rows, columns = np.nonzero(differs)
        assert 0 < len(rows) < 0.15 * differs.size
        assert rows.min() > 100  # the legend, lower right, and nothing else
        assert columns.min() > 100


def test_a_legend_that_has_no_room_is_left_out():
    for height, width in ((6, 6), (30, 400), (400, 30)):
        viz = draw_viz(picture(height, width), np.zeros((height, width), np.uint8), ["_background_"])
        assert viz.shape == (height, width, 3)


def test_more_names_than_a_palette_holds(tmp_path):
    places = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y in range(0, 60, 4) for x in range(0, 80, 4)]
    folder, _ = made(tmp_path, [shape("c", p) for p in places])
    assert not (folder / "label.png").exists()
    label, names = np.load(folder / "label.npy"), (folder / "label_names.txt").read_text().split()
    assert len(names) == 301
    assert [names[label[y, x]] for (x, y), *_ in places] == [f"c-{i}" for i in range(1, 301)]
    assert len(list((folder / "masks").iterdir())) == 300


def test_a_label_cannot_lead_out_of_the_folder(tmp_path):
    folder, _ = made(tmp_path, [shape("../../../evil", BELOW), shape("/abs/évil\n", ABOVE)])
    assert sorted(p.name for p in (folder / "masks").iterdir()) == ["001_evil.png", "002_évil.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drop.json", "drop.png", "drop_json"]


def test_an_empty_image_is_all_background(tmp_path):
    folder, _ = made(tmp_path, [])
    assert not np.array(Image.open(folder / "label.png")).any()
    assert (folder / "label_names.txt").read_text() == "_background_\n"
    assert list((folder / "masks").iterdir()) == []


def test_an_image_that_is_no_png_becomes_one(tmp_path):
    (tmp_path / "drop.jpg").write_bytes(encoded(picture(), "JPEG", quality=90))
    (tmp_path / "drop.json").write_text(json.dumps(document([], "drop.jpg")))
    converted = convert_file(tmp_path / "drop.json")
    write_folder(tmp_path / "out", converted)
    theirs = np.array(Image.open(tmp_path / "drop.jpg"))
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "img.png")), theirs)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"LabelMe 3.16.2's own example is not at {SAMPLE}")
def test_against_the_folder_that_labelme_wrote(tmp_path):
    """The sample is of an older version: names stand in the file's order there, not sorted, and PIL's polygons and
    JPEG decoder were others. Equal are the files, modes, sizes, palette and names; the label but for its borders.
    """
    theirs, ours = SAMPLE / "apc2016_obj3_json", tmp_path / "ours"
    write_folder(ours, convert_file(SAMPLE / "apc2016_obj3.json"))
    assert {p.name for p in theirs.iterdir()} == {p.name for p in ours.iterdir()} - {"masks"}
    for name in ("img.png", "label.png", "label_viz.png"):
        a, b = Image.open(theirs / name), Image.open(ours / name)
        assert (a.mode, a.size) == (b.mode, b.size)
    a, b = (np.array(Image.open(f / "img.png")).astype(int) for f in (theirs, ours))
    assert np.abs(a - b).mean() < 0.5
    palettes = [Image.open(f / "label.png").getpalette()[: 3 * 255] for f in (theirs, ours)]
    assert palettes[0] == palettes[1]
    names = [(f / "label_names.txt").read_text().split("\n") for f in (theirs, ours)]
    assert names[1] == ["_background_", *sorted(names[0][1:-1]), ""]
    assert (ours / "info.yaml").read_text().split("\n") == ["label_names:", *(f"- {n}" for n in names[1][:-1]), ""]
    a, b = (np.array(names[i])[np.array(Image.open(f / "label.png"))] for i, f in enumerate((theirs, ours)))
    assert (a != b).mean() < 0.002
    for name in names[1][:-1]:
        assert ((a == name) & (b == name)).sum() / ((a == name) | (b == name)).sum() > 0.98
