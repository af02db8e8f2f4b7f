"""Which crystals lie outside: at least half of the pixels have to lie in some drop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle_tools

from crystal.prediction.drop_region import outside_drops


def block(top, left, height, width, shape=(40, 60)):
    mask = np.zeros(shape, np.uint8)
    mask[top : top + height, left : left + width] = 1
    return rle_tools.encode(np.asfortranarray(mask))


def test_half_inside_is_inside():
    drop = block(10, 10, 20, 20)
    crystals = [block(12, 12, 4, 4), block(12, 28, 4, 4), block(12, 29, 4, 4), block(35, 50, 3, 3)]
    assert outside_drops(crystals, [drop]).tolist() == [False, False, True, True]


def test_two_drops_together_hold_a_crystal():
    """As where a drop was found in two parts."""
    crystal = block(10, 10, 6, 20)
    assert outside_drops([crystal], [block(10, 10, 6, 8), block(10, 20, 6, 8)]).tolist() == [False]
    assert outside_drops([crystal], [block(10, 10, 6, 8)]).tolist() == [True]


def test_where_no_drop_is_in_sight_all_are_inside():
    assert outside_drops([block(0, 0, 3, 3)], []).tolist() == [False]
    assert outside_drops([], [block(0, 0, 3, 3)]).shape == (0,)


@given(st.integers(0, 2**32 - 1))
def test_as_counted_by_pixels(seed):
    rng = np.random.default_rng(seed)
    masks = [np.asfortranarray((rng.random((8, 9)) < 0.5).astype(np.uint8)) for _ in range(5)]
    masks[0][0, 0] = masks[1][0, 0] = masks[2][0, 0] = 1
    rles = [rle_tools.encode(mask) for mask in masks]
    liquid = (masks[3] | masks[4]).astype(bool)
    wanted = [bool((m.astype(bool) & liquid).sum() < m.sum() / 2) for m in masks[:3]]
    assert outside_drops(rles[:3], rles[3:]).tolist() == wanted
