"""The grid of views: it covers every pixel and nothing else, and an object that fits is owned wherever it lies."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.image.letterbox import fit
from maskrcnn_jax.image.tiles import OVERLAP, View, owns, views

sides = st.integers(1, 400)
zooms = st.floats(1, 12)


@given(sides, sides, st.tuples(st.integers(8, 200), st.integers(8, 200)), zooms, st.floats(0, 0.6))
def test_tiles_cover_every_pixel_and_share_what_was_asked_for(height, width, size, zoom, overlap):
    grid = views(height, width, size, zooms=(zoom,), overlap=overlap)
    covered = np.zeros((height, width), int)
    for view in grid:
        assert (view.zoom, view.height, view.width) == (zoom, grid[0].height, grid[0].width)
        assert min(view.top, view.left) >= 0
        covered[view.top : view.top + view.height, view.left : view.left + view.width] += 1
    assert covered.shape == (height, width)  # a tile that lay outside would have failed above, or miss pixels here
    assert covered.min() >= 1
    assert covered.sum() == sum(view.height * view.width for view in grid)
    for starts, side in (({v.top for v in grid}, grid[0].height), ({v.left for v in grid}, grid[0].width)):
        steps = np.diff(sorted(starts))
        assert (side - steps >= math.floor(overlap * side)).all()
        assert np.ptp(steps) <= 1 if len(steps) else True
    assert grid == views(height, width, size, zooms=(zoom,), overlap=overlap)


@given(sides, sides, st.integers(8, 200), zooms)
def test_objects_appear_zoom_times_as_large(height, width, size, zoom):
    whole, tile = fit(height, width, size), views(height, width, size, zooms=(zoom,))[0]
    scale = fit(tile.height, tile.width, size).scale
    # Up to the rounding of the tile's sides to whole pixels; a thin image may leave room to enlarge it more.
    assert scale >= whole.scale * zoom * (1 - 0.5 / max(min(tile.height, tile.width), 1)) - 1e-9 or tile.width == 1


def test_few_views_for_what_is_asked():
    """1 + 3 x 3 + 5 x 5 at a quarter of overlap; the whole image is one view, and zooms come in the order given."""
    grid = views(1024, 1280, (256, 320), zooms=(1, 2, 4))
    assert [sum(v.zoom == zoom for v in grid) for zoom in (1, 2, 4)] == [1, 9, 25]
    assert grid[0] == View(1, 0, 0, 1024, 1280)
    assert {(v.height, v.width) for v in grid[10:]} == {(256, 320)}
    assert len(views(10, 5000, 100, zooms=(4,))) == 5  # one row


def rows_of_owns(view, boxes, *, height, width, margin=0.02):
    """`owns`, box by box."""
    found = []
    for x1, y1, x2, y2 in boxes:
        good = True
        for low, high, start, side, total in (
            (x1, x2, view.left, view.width, width),
            (y1, y2, view.top, view.height, height),
        ):
            if start > 0 and low - start < margin * side:
                good = False
            if start + side < total and start + side - high < margin * side:
                good = False
        found.append(good)
    return found


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.0, 3.5, 5.0]))
def test_what_fits_is_owned_by_a_tile_wherever_it_lies(seed, zoom):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(60, 500, 2).tolist()
    grid = views(height, width, (90, 120), zooms=(zoom,))
    tile = grid[0]
    limit = [
        s if s == t else math.floor(OVERLAP * s) - 0.04 * s for s, t in ((tile.width, width), (tile.height, height))
    ]
    extent = np.maximum(rng.uniform(0, limit, (20, 2)), 0)
    corner = rng.uniform(0, 1, (20, 2)) * ((width, height) - extent)
    boxes = np.concatenate([corner, corner + extent], axis=1)
    by_view = np.array([owns(view, boxes, height=height, width=width) for view in grid])
    assert by_view.any(0).all()
    for view, own in zip(grid, by_view, strict=True):
        assert own.tolist() == rows_of_owns(view, boxes, height=height, width=width)


def test_nothing_found_is_nothing_owned():
    assert owns(View(1, 0, 0, 5, 5), np.zeros((0, 4)), height=5, width=5).shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zooms": (0.5,)}, "zoom is 0.5; give at least 1"),
        ({"zooms": (math.nan,)}, "zoom is nan"),
        ({"zooms": (math.inf,)}, "zoom is inf"),
        ({"overlap": 1}, "overlap is 1; give a share below 1"),
        ({"overlap": -0.1}, "overlap is -0.1; give a number from 0 to 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        views(10, 10, 10, **options)
