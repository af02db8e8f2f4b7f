"""Drawing: the input stays as it was, sizes are as promised, and every outline can be seen."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle_tools

from crystal.data.outlines import contours, cut, polygons
from crystal.prediction import overlays
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
    row = drawn[:10, 20].astype(int)  # above the square, which begins in row 10
    assert np.abs(row - np.array(COLOURS[0])).max(1).min() < 60  # the line itself, blended at its rim
    assert row.mean(1).min() < 128  # the halo
    assert (image == level).all()


@pytest.mark.parametrize("side", [1, 24])
@pytest.mark.parametrize("size", [256, 1000, 2000, 2700])
def test_lines_run_around_crystals_and_hide_nothing_of_them(size, side):
    masks = np.zeros((2, size, size), bool)
    masks[0, 100 : 100 + side, 100 : 100 + side] = masks[1, 150:250, 150:250] = True
    drawn = draw_outlines(grey(size, size), masks)
    assert (drawn[100 : 100 + side, 100 : 100 + side] == 128).all()
    assert (drawn[90:100, 100] != 128).any()
    assert (np.abs(drawn[140:150, 200].astype(int) - COLOURS[1]).max(1) < 60).any()


def test_outlines_keep_their_distance_at_any_scale():
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 20:40, 20:60] = True
    for scale in (0.501, 1, 3):
        drawn = draw_outlines(grey(60, 80), mask, scale=scale)
        rows = np.flatnonzero((drawn != 128).any((1, 2)))
        assert 20 * scale - 8 <= rows.min() < 20 * scale
        assert 40 * scale <= rows.max() < 40 * scale + 8


def test_bool_masks_and_run_lengths_draw_the_same():
    masks = squares(5)
    masks[4] = False  # an empty mask is no trouble
    scores = np.linspace(1, 0, 5)
    one = draw_outlines(grey(), masks, scores=scores)
    np.testing.assert_array_equal(one, draw_outlines(grey(), encode(masks), scores=scores))
    assert one.shape == (120, 160, 3)
    assert one.dtype == np.uint8


def test_labels_colours_and_scale():
    masks = squares(4)
    plain, numbers, scores = draw_outlines(grey(), masks), ["1", "2", "3", "4"], [0.5] * 4
    labelled, scored, both = (
        draw_outlines(grey(), masks, **texts)
        for texts in ({"labels": numbers}, {"scores": scores}, {"labels": numbers, "scores": scores})
    )
    assert len({drawn.tobytes() for drawn in (plain, labelled, scored, both)}) == 4
    red = draw_outlines(grey(), masks, colours=[(255, 0, 0)])
    assert (np.abs(red[20].astype(int) - (255, 0, 0)).max(1) < 70).any()
    assert draw_outlines(grey(), masks, scale=2.5).shape == (300, 400, 3)
    assert draw_outlines(grey(), masks, scale=0.1).shape == (12, 16, 3)
    np.testing.assert_array_equal(draw_outlines(grey(), masks[:0], labels=[]), grey())


def test_neighbours_have_different_colours():
    """A wall of 6 x 6 bricks that touch, every second row shifted by half: each has at most six neighbours."""
    masks = np.zeros((36, 120, 160), bool)
    for n in range(36):
        row, column = divmod(n, 6)
        left = 10 + 20 * column + 10 * (row % 2)
        masks[n, 10 + 14 * row : 24 + 14 * row, left : left + 20] = True
    colours = overlays._apart([overlays._around(mask, 1.0, 2) for mask in masks], 120, 160, near=4)
    wider = np.array([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) for mask in masks]).reshape(36, -1)
    touch = (wider.astype(int) @ masks.reshape(36, -1).T.astype(int) > 0) & ~np.eye(36, dtype=bool)
    assert touch.sum() > 100
    assert not any(colours[a] == colours[b] for a, b in np.argwhere(touch))
    apart = overlays._apart([overlays._around(mask, 1.0, 2) for mask in masks[::14]], 120, 160, near=4)
    assert apart == list(overlays.COLOURS[:3]), "in turn"


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
