"""Which zooms the data ask for, where crops lie, and what of a cut object is visible."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from crystal.data.crops import WITH_OBJECT, Crop, draw_crop, visible_part, zoom_range
from crystal.data.dataset import Instance, Record

SIZE, ANCHORS = (256, 320), (12, 24, 48, 96, 160)


def record(*sides: float, height=1024, width=1280) -> Record:
    """An image with squares of these sides."""
    boxes = [(10.0, 10.0, 10.0 + side, 10.0 + side) for side in sides]
    return Record(1, Path("a.png"), "a.png", height, width, tuple(Instance(1, b, [], False, 1) for b in boxes))


def test_small_objects_grow_to_the_size_of_the_middle_anchors():
    """A quarter of the whole image's 64 pixels are 16; at zoom 2.12 they are 34, between anchors of 24 and 48."""
    assert zoom_range([record(64, 64, 64)], SIZE, ANCHORS) == (1.0, 2.12)
    assert zoom_range([record(64), record(64, 400)], SIZE, ANCHORS) == (1.0, 2.12)
    assert zoom_range([record(200, 300)], SIZE, ANCHORS) == (1.0, 1.0)
    assert zoom_range([record(8)], SIZE, ANCHORS) == (1.0, 4.4)  # as far as there are pixels
    assert zoom_range([record(8, height=256, width=320)], SIZE, ANCHORS) == (1.0, 1.1)
    assert zoom_range([record(), record()], SIZE, ANCHORS) == (1.0, 1.0)


def test_crops_are_of_all_zooms_and_most_hold_an_object():
    rng, boxes = np.random.default_rng(0), np.array([[900.0, 100, 940, 140]])
    crops = [draw_crop(rng, 1000, 1250, SIZE, (1.0, 4.0), boxes) for _ in range(2000)]
    zooms = np.array([1000 / (c.bottom - c.top) for c in crops])
    assert 1 <= zooms.min() < 1.1
    assert zooms.max() == 4.0
    holding = np.mean([c.left <= 920 <= c.right and c.top <= 120 <= c.bottom for c in crops])
    assert WITH_OBJECT < holding < WITH_OBJECT + 0.15  # and some of those drawn anywhere


def zooms_around(side: float, zooms=(1.0, 4.0)) -> np.ndarray:
    rng, boxes = np.random.default_rng(0), np.array([[300.0, 300, 300 + side, 300 + side]])
    crops = [draw_crop(rng, 1024, 1280, SIZE, zooms, boxes) for _ in range(1000)]
    return np.array([1024 / (c.bottom - c.top) for c in crops])


def test_the_zoom_suits_the_object():
    """Drawn for 24 to 95 pixels of the view: 40 pixels of an image reduced four times, then 360, shown whole."""
    assert np.mean(zooms_around(40.0) >= 2.38) > 0.75
    assert np.median(zooms_around(360.0)) == 1.0


def test_an_object_that_fills_the_view_asks_for_no_crop():
    """Where a drop is all there is, its parts are shown at all zooms."""
    zooms = zooms_around(700.0)
    assert np.allclose(np.percentile(zooms, [25, 50, 75]), [4**0.25, 2, 4**0.75], atol=0.15)


@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.floats(1, 3), st.floats(1, 8)),
    st.integers(0, 3),
)
@settings(max_examples=100)
def test_a_crop_lies_in_the_image(seed, shape, zooms, objects):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (objects, 4)) * (*shape[::-1], *shape[::-1])
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    crop = draw_crop(rng, *shape, SIZE, (min(zooms), max(zooms)), boxes)
    assert 0 <= crop.left < crop.right <= shape[1]
    assert 0 <= crop.top < crop.bottom <= shape[0]
    whole = draw_crop(rng, *shape, SIZE, (1.0, 1.0), boxes)
    assert whole == Crop(0, 0, shape[1], shape[0])


@given(st.integers(0, 2**32), st.integers(1, 40))
@settings(max_examples=100)
def test_the_visible_part_is_that_of_the_pixels(seed, side):
    """With a pixel a cell, against cutting the picture: same box, same mask, same share."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((side, side)) < rng.uniform(0.02, 1)).astype(np.uint8)
    mask[rng.integers(side), rng.integers(side)] = 1
    left, top = rng.integers(0, 50, 2).tolist()
    crop = Crop(*rng.integers(0, 50, 2).tolist(), *rng.integers(50, 100, 2).tolist())
    picture = np.zeros((100, 100), np.uint8)
    picture[top : top + side, left : left + side] = mask
    outside = np.ones((100, 100), bool)
    outside[crop.top : crop.bottom, crop.left : crop.right] = False
    picture[outside] = 0
    box, part, share = visible_part(np.array([left, top, left + side, top + side], float), mask, crop)
    assert np.isclose(share, picture.sum() / mask.sum())
    if picture.any():
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        assert np.allclose(box, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        (x1, y1, x2, y2), cells = box.astype(int), (np.arange(side) + 0.5) / side
        inside = picture[y1:y2, x1:x2]
        ys, xs = (np.floor(cells * n + 1e-9).astype(int) for n in inside.shape)
        assert (part == inside[ys[:, None], xs]).mean() > 0.9  # but for ties of rounding
