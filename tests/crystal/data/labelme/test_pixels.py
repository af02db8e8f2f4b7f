"""The pixels of every kind of shape: as COCO's tools read them, and as LabelMe draws them."""

import base64

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as rle_tools

from crystal.data.labelme.document import LabelmeError, read_shape
from crystal.data.labelme.pixels import draw_shape, drawn_as_labelme, part_of, run_lengths
from tests.labelme_files import drawn, encoded, mask_shape, shape, stating

H, W = 60, 80


def pixels(*entries):
    parts = [part_of(read_shape(entry, i), H, W) for i, entry in enumerate(entries, 1)]
    return rle_tools.decode(run_lengths(parts, H, W)).astype(bool)


def labelme_pixels(entry):
    canvas = Image.new("L", (W, H))
    draw_shape(canvas, read_shape(entry, 1), 7)
    values = np.array(canvas)
    assert set(np.unique(values)) <= {0, 7}
    return values == 7


def boxed(top, left, bottom, right):
    mask = np.zeros((H, W), bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    "corners", [[(10, 5), (30, 25)], [(30, 25), (10, 5)], [(30, 5), (10, 25)], [(10, 25), (30, 5)]]
)
def test_a_rectangle_has_two_corners_in_any_order(corners):
    entry = shape(points=corners, kind="rectangle")
    assert np.array_equal(pixels(entry), boxed(5, 10, 25, 30))
    assert np.array_equal(labelme_pixels(entry), boxed(5, 10, 26, 31))  # PIL colours the last row and column too


def test_an_oriented_rectangle_is_a_polygon():
    corners = [(20, 10), (40, 30), (30, 40), (10, 20)]
    assert np.array_equal(pixels(shape(points=corners, kind="oriented_rectangle")), pixels(shape(points=corners)))


def test_a_circle_is_every_pixel_whose_centre_lies_in_it():
    entry = shape(points=[(40.5, 30.5), (50.5, 30.5)], kind="circle")
    y, x = np.mgrid[:H, :W]
    assert np.array_equal(pixels(entry), (x - 40) ** 2 + (y - 30) ** 2 <= 100)
    canvas = Image.new("1", (W, H))
    ImageDraw.Draw(canvas).ellipse((30.5, 20.5, 50.5, 40.5), fill=1, outline=1)
    assert np.array_equal(labelme_pixels(entry), np.array(canvas))


def test_a_circle_is_cut_at_the_border():
    assert pixels(shape(points=[(0, 0), (10, 0)], kind="circle")).sum() == pytest.approx(np.pi * 100 / 4, rel=0.05)


def test_a_mask_lies_in_its_box_with_its_holes():
    mask = np.zeros((12, 9), bool)
    mask[1:11, 1:8] = True
    mask[4:7, 3:6] = False
    wanted = np.zeros((H, W), bool)
    wanted[20:32, 30:39] = mask
    for entry in (mask_shape(mask, 30, 20), mask_shape(mask, 30.7, 20.9)):  # LabelMe cuts to whole pixels
        assert np.array_equal(pixels(entry), wanted)
        assert np.array_equal(labelme_pixels(entry), wanted)


@pytest.mark.parametrize(("left", "top"), [(-5, -4), (W - 3, H - 5), (-5, 20)])
def test_a_mask_is_cut_at_the_border(left, top):
    wanted = boxed(max(top, 0), max(left, 0), min(top + 12, H), min(left + 9, W))
    assert np.array_equal(pixels(mask_shape(np.ones((12, 9), bool), left, top)), wanted)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_masks_of_other_programs_are_read(mode):
    values = np.zeros((10, 10), np.uint8)
    values[2:8, 3:9] = 1 if mode == "P" else 255
    picture = Image.fromarray(values, "P" if mode == "P" else "L")
    picture = picture if mode == "P" else picture.convert(mode)
    entry = mask_shape(values > 0, 5, 5) | {"mask": base64.b64encode(encoded(np.array(picture))).decode()}
    assert np.array_equal(pixels(entry), boxed(7, 8, 13, 14))


def test_parts_unite_whatever_their_kind():
    both = pixels(shape(), mask_shape(np.ones((5, 5), bool), 60, 40), shape(points=[(5, 50), (5, 54)], kind="circle"))
    assert both[40:45, 60:65].all()
    assert both[15:25, 15:35].all()
    assert both[50, 5]
    assert both.sum() == 30 * 20 + 25 + pixels(shape(points=[(5, 50), (5, 54)], kind="circle")).sum()


def test_a_polygon_is_drawn_as_labelme_does():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.uniform(-15, 90, (rng.integers(3, 9), 2)).round(rng.integers(0, 3)).tolist()
        assert np.array_equal(labelme_pixels(shape(points=points)), drawn(H, W, points))


def test_corners_far_outside_cost_no_more_than_the_image():
    far = shape(points=[(-9e6, 10), (9e6, 10), (9e6, 40), (-9e6, 40)])
    assert np.array_equal(pixels(far), boxed(10, 0, 40, W))
    assert labelme_pixels(far)[10:40].all()
    assert labelme_pixels(shape(points=[(-9e6, -9e6), (9e6, 9e6)], kind="rectangle")).all()


PNG_OF_10 = base64.b64encode(encoded(np.zeros((10, 10), np.uint8))).decode()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (shape(points=[(1, 1), (9, 1), (5, 1)]), "no area"),
        (shape(points=[(90, 90), (99, 90), (99, 99)]), "outside the image"),
        (shape(points=[(5, 5), (5, 5)], kind="rectangle"), "no area"),
        (shape(points=[(5, 5), (5, 5)], kind="circle"), "no radius"),
        (shape(points=[(200, 200), (205, 200)], kind="circle"), "outside"),
        (shape(points=[(5, 5), (9e6, 5)], kind="circle"), "far beyond"),
        (shape(points=[(5.2, 5.2), (5.3, 5.2)], kind="circle"), "no pixel"),
        (mask_shape(np.zeros((5, 5), bool), 3, 3), "no pixel"),
        (mask_shape(np.ones((5, 5), bool), 200, 3), "no pixel"),
        (mask_shape(np.ones((5, 5), bool), 3, 3) | {"mask": "AAAA"}, "no PNG"),
        (mask_shape(np.ones((5, 5), bool), 3, 3) | {"mask": PNG_OF_10}, "does not fit its box"),
        (mask_shape(np.ones((9, 400), bool), 3, 3), "far larger"),
    ],
)
def test_shapes_without_pixels_are_explained(entry, said):
    with pytest.raises(LabelmeError, match=said):
        part_of(read_shape(entry, 1), H, W)


def test_a_mask_that_claims_a_hundred_thousand_pixels_a_side_is_not_decoded():
    data = base64.b64decode(PNG_OF_10)
    for side, reason in ((100_000, "no PNG image of a usable size"), (9_000, "9000 x 9000 pixels is far larger")):
        huge = base64.b64encode(stating(side, data)).decode()
        with pytest.raises(LabelmeError, match=reason):
            part_of(read_shape(shape(points=[(0, 0), (side - 1, side - 1)], kind="mask", mask=huge), 1), H, W)
    cut_short = base64.b64encode(data[:-20]).decode()
    with pytest.raises(LabelmeError, match=r"decoded|no pixel"):
        part_of(read_shape(shape(points=[(0, 0), (9, 9)], kind="mask", mask=cut_short), 1), H, W)


def test_what_lies_between_pixel_centres_is_drawn_as_labelme_does():
    sliver = read_shape(shape(points=[(10.1, 10.1), (30.1, 10.1), (30.1, 10.2)]), 1)
    assert rle_tools.area(run_lengths([part_of(sliver, H, W)], H, W)) == 0
    assert np.array_equal(rle_tools.decode(drawn_as_labelme((sliver,), H, W)).astype(bool), boxed(10, 10, 11, 31))
