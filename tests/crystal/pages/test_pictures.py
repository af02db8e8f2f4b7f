"""Pictures of boxes, maps, grids and masks: things are drawn where they are."""

import numpy as np

from crystal.pages.pictures import (
    FINE,
    ORANGE,
    SKY,
    busiest,
    channels,
    close_up,
    coloured,
    draw_boxes,
    feature_map,
    mask_cells,
    on_white,
    pasted,
    sampling,
    surroundings,
)


def is_colour(picture, colour):
    return (np.abs(picture.astype(int) - colour) < 40).all(-1)


def extent(where):
    rows, columns = np.nonzero(where)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_boxes_lie_where_they_say():
    image = np.full((60, 80, 3), 128, np.uint8)
    boxes, scale = np.array([[10.0, 20.0, 40.0, 50.0], [-500.0, -500.0, 5000.0, 5000.0]]), FINE / 80
    picture = draw_boxes(image, boxes, [SKY, ORANGE])
    assert picture.shape == (FINE * 60 // 80, FINE, 3)
    np.testing.assert_allclose(extent(is_colour(picture, SKY)), boxes[0] * scale, atol=4)
    assert not is_colour(picture, ORANGE).any()  # its edges lie outside
    assert (picture[FINE * 35 // 80, FINE * 25 // 80] == 160).all()  # paled: a quarter of the way to white
    assert (draw_boxes(image, np.zeros((0, 4)), [], pale=1.0) == 128).all()


def test_viridis_rises_evenly_and_equal_numbers_are_one_colour():
    ramp = coloured(np.linspace(0, 1, 64)[None], 0, 1)[0].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(ramp) > -1).all()
    assert ramp[-1] - ramp[0] > 150
    assert len(np.unique(coloured(np.ones((3, 4)), 1.0, 1.0).reshape(-1, 3), axis=0)) == 1


def test_maps_and_channels():
    features = np.zeros((2, 4, 5), np.float32)
    features[0, 3, 2], features[1, 0, 4] = -9.0, 2.0
    assert busiest(features, 3).tolist() == [2, 4, 0]
    picture = feature_map(features, 80)
    assert picture.shape == (40, 80, 3)
    bright = picture.astype(int).sum(-1)
    assert bright[10, 70] == bright.max()
    assert bright[10, 10] == bright.min()
    assert channels(features, [2, 4, 0, 1], 320).shape[1] == 3 * ((320 - 16) // 3) + 16
    assert channels(features[:1, :1], [2], 320).shape[2] == 3


def test_samples_and_box_lie_on_their_cells():
    """Samples at whole numbers lie in the middle of their cells."""
    features = np.zeros((12, 12, 1), np.float32)
    box = np.array([4.0, 5.0, 8.0, 7.0])
    left, top, _, _ = surroundings(box, 12, 12, least=2.0)
    picture = sampling(features, box, np.array([5.0]), np.array([4.0, 7.0]), bins=2)
    cell = picture.shape[1] // (surroundings(box, 12, 12, least=2.0)[2] - left)
    dots = is_colour(picture, ORANGE)
    x1, y1, x2, y2 = extent(dots)
    np.testing.assert_allclose([(y1 + y2) / 2 / cell + top], [5.5], atol=0.1)
    np.testing.assert_allclose([x1 / cell + left, x2 / cell + left], [4.5, 7.5], atol=0.15)
    white = extent((picture > 240).all(-1))
    np.testing.assert_allclose(np.array(white) / cell + [left, top, left, top], box, atol=0.1)
    # A RoI of no area, and one that reaches over the border, are drawn all the same.
    for odd in ([3.0, 3.0, 3.0, 3.0], [-5.0, 9.0, 30.0, 14.0], [12.0, 0.0, 12.0, 12.0]):
        assert sampling(features, np.array(odd), np.array([11.0]), np.array([0.0]), bins=None).size


def test_masks_and_their_pasting():
    cells = mask_cells(np.eye(4), np.array([0.0, 0.0, 400.0, 4.0]))
    assert cells.shape == (100, 400, 3)  # a needle's cells are widened
    assert on_white(cells, 50).shape == (50, 50, 3)
    assert (on_white(cells, 500)[0] == 255).all()
    image = np.full((64, 64, 3), 100, np.uint8)
    mask, box = np.zeros((64, 64), bool), np.array([30.0, 40.0, 50.0, 50.0])
    mask[40:50, 30:50] = True
    left, top, right, _ = surroundings(box, 64, 64, least=16.0)
    picture = pasted(image, mask, box)
    scale = FINE / (right - left)
    found = np.array(extent(is_colour(picture, ORANGE))) / scale + [left, top, left, top]
    np.testing.assert_allclose(found, box, atol=0.4)
    assert not is_colour(pasted(image, ~mask & False, box), ORANGE).any()
    assert close_up(image, box, np.zeros((0, 4)), []).shape[1] == FINE
