"""Drawing: the input stays as it was, sizes are as promised, and every outline can be seen."""

import numpy as np
import pytest
from pycocotools import mask as rle_tools

from crystal.data.outlines import contours, cut, polygons
from crystal.prediction.measurements import measure
from crystal.prediction.overlays import (
    COLOURS,
    beside,
    contact_sheet,
    draw_outlines,
    labelled_mask,
    over_histogram,
    voc_colours,
)


def grey(height=120, width=160, level=128):
    return np.full((height, width, 3), level, np.uint8)


def squares(count, height=120, width=160, side=20):
    masks = np.zeros((count, height, width), bool)
    for i in range(count):
        y, x = 10 + 30 * (i // 4), 10 + 35 * (i % 4)
        masks[i, y : y + side, x : x + side] = True
    return masks


def encode(masks):
    return [rle_tools.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_outline_reads_on_any_ground(level):
    image = grey(level=level)
    drawn = draw_outlines(image, squares(1))
    border = drawn[10, 12:28].astype(int)
    assert np.abs(border - np.array(COLOURS[0])).max() < 60  # the line itself, blended at its rim
    assert drawn[8, 12:28].mean() < 128 or level == 0  # the halo
    assert (drawn[20, 20] == level).all()  # what is inside stays visible
    assert (image == level).all()


def test_small_instances_stay_visible_in_a_large_picture():
    """In a picture of 2000 x 2000, whose outlines are 6 pixels wide, the middle of a crystal of 14 pixels is seen."""
    masks = np.zeros((2, 2000, 2000), bool)
    masks[0, 100:114, 100:114] = masks[1, 500:900, 500:900] = True
    drawn = draw_outlines(grey(2000, 2000), masks)
    assert (drawn[104:110, 104:110] == 128).all()
    assert (drawn[96:118, 96:118] != 128).any()
    assert (drawn[498:503, 600] == COLOURS[1]).all()


def test_bool_masks_and_run_lengths_draw_the_same():
    masks = squares(5)
    masks[4] = False  # an empty mask is no trouble
    scores = np.linspace(1, 0, 5)
    one = draw_outlines(grey(), masks, scores=scores)
    np.testing.assert_array_equal(one, draw_outlines(grey(), encode(masks), scores=scores))
    assert one.shape == (120, 160, 3)
    assert one.dtype == np.uint8


def test_labels_boxes_colours_and_scale():
    masks = squares(4)
    plain = draw_outlines(grey(), masks)
    assert (draw_outlines(grey(), masks, scores=[0.5] * 4) != plain).any()
    assert (draw_outlines(grey(), masks, labels=["1", "2", "3", "4"]) != plain).any()
    many = np.concatenate([masks] * 7)
    np.testing.assert_array_equal(draw_outlines(grey(), many, scores=[0.5] * 28), draw_outlines(grey(), many))
    tiny = squares(1, side=2)
    np.testing.assert_array_equal(draw_outlines(grey(), tiny, scores=[0.5]), draw_outlines(grey(), tiny))
    boxed = draw_outlines(grey(), masks[:1], boxes=np.array([[60.0, 60.0, 100.0, 100.0]]))
    assert (boxed[60, 60:99] != 128).any()
    assert np.abs(draw_outlines(grey(), masks, colours=[(255, 0, 0)])[20, 10].astype(int) - (255, 0, 0)).max() < 60
    assert draw_outlines(grey(), masks, scale=2.5).shape == (300, 400, 3)
    assert draw_outlines(grey(), masks, scale=0.1).shape == (12, 16, 3)
    np.testing.assert_array_equal(draw_outlines(grey(), masks[:0]), grey())


def test_labels_keep_off_the_outlines():
    drawn = draw_outlines(grey(), squares(1), labels=["0.99"])
    inside = drawn[14:26, 14:26]
    assert (inside == 128).all()


def test_an_instance_at_the_border_of_the_image():
    mask = np.ones((1, 30, 40), bool)
    assert draw_outlines(grey(30, 40), mask, scores=[0.5]).shape == (30, 40, 3)
    [points] = contours(mask[0])
    assert points.min(0).tolist() == [0, 0]
    assert points.max(0).tolist() == [39, 29]


def nothing_but_a_hole():
    mask = np.zeros_like(squares(1)[0])
    mask[15:25, 15:25] = True
    return mask


def test_cut_measure_and_polygons():
    mask = squares(1)[0]
    for form in (mask, encode(mask[None])[0]):
        patch, top, left = cut(form)
        assert (patch.shape, top, left) == ((20, 20), 10, 10)
        assert measure(form) == (400, 20.0, 20.0, 20.0, 20.0)
        [polygon], exact = polygons(form)
        assert exact
        assert np.abs(np.sort(np.reshape(polygon, (-1, 2)), 0) - [[10, 10], [10, 10], [30, 30], [30, 30]]).max() < 0.2
    nothing = np.zeros((5, 5), bool)
    assert cut(nothing)[0].size == cut(encode(nothing[None])[0])[0].size == 0
    assert contours(nothing) == []
    assert polygons(nothing) == ([], False)
    nothing[2, 2] = True
    assert measure(nothing) == (1, 2.5, 2.5, 1.0, 1.0)
    assert polygons(squares(1)[0] & ~nothing_but_a_hole())[1] is False  # no outline says that there is a hole


def test_figures_have_the_promised_shape_and_leave_the_image_alone():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 160, 3), np.uint8)
    before = image.copy()
    pair = beside([image, over_histogram(image)[:120]])
    assert pair.shape == (120, 2 * 160 + 8, 3)
    np.testing.assert_array_equal(pair[:, :160], image)
    labelled = labelled_mask(image, squares(2))
    np.testing.assert_array_equal(labelled[:, :160], image)
    assert labelled[20, 168 + 20].tolist() == [128, 0, 0]
    assert labelled[20, 168 + 50].tolist() == [0, 128, 0]
    assert labelled[100, 168 + 100].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(image, before)


def test_voc_colours_are_those_of_the_palette():
    assert voc_colours(22)[[5, 8, 15, 20]].tolist() == [[128, 0, 128], [64, 0, 0], [192, 128, 128], [0, 64, 128]]
    assert len(np.unique(voc_colours(256), axis=0)) == 256


def test_contact_sheet():
    sheet = contact_sheet([grey(), grey(60, 160), grey(30, 30)], ["one", "two " * 99, ""], 2, 80)
    assert sheet.shape[1] == 2 * 80 + 3 * 8
    assert (sheet == 255).any()
    with pytest.raises(ValueError, match="caption"):
        contact_sheet([grey()], [], 1, 80)
