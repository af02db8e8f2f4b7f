"""The points farthest from every edge: equal to a search over all pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle_tools

from crystal.prediction.points import dispensing_point, shooting_point


def farthest(mask):
    """The greatest distance of a pixel of the mask to the centre of one outside; beyond the frame all is outside."""
    ring = np.pad(mask, 1)
    inside, outside = np.argwhere(ring), np.argwhere(~ring)
    return np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(-1)).min(1).max()


@given(st.integers(0, 2**32 - 1))
def test_no_pixel_is_farther_inside(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 12)) < 0.8
    point = shooting_point(mask)
    assert mask[int(point.y), int(point.x)]
    assert point.radius == pytest.approx(farthest(mask) - 0.5, abs=1e-3)


def test_a_needle_is_shot_in_its_middle_and_not_at_its_end():
    mask = np.zeros((30, 60), bool)
    mask[10:13, 5:56] = True
    assert shooting_point(mask)[:2] == (30.5, 11.5)
    assert shooting_point(rle_tools.encode(np.asfortranarray(mask.astype(np.uint8)))) == shooting_point(mask)


def test_a_crescent_is_shot_inside_although_its_centre_of_mass_is_not():
    rows, columns = np.mgrid[:60, :60]
    mask = ((rows - 30) ** 2 + (columns - 30) ** 2 < 28**2) & ((rows - 30) ** 2 + (columns - 38) ** 2 > 24**2)
    point = shooting_point(mask)
    assert mask[int(point.y), int(point.x)]
    assert not mask[30, 30]


def test_liquid_is_dispensed_away_from_crystals_and_rim():
    drop, crystal, beside = (np.zeros((100, 140), bool) for _ in range(3))
    drop[10:90, 10:130] = True
    crystal[10:90, 40:50] = True  # parts the drop: the larger side is to the right
    beside[0:5, 0:140] = True  # outside the drop
    point = dispensing_point(drop, [crystal, beside])
    assert point[:2] == pytest.approx((90, 50), abs=1)
    assert point.radius == pytest.approx(39.5, abs=0.5)
    assert dispensing_point(drop, []).x == pytest.approx(70, abs=1)


def test_nothing_free_nothing_there():
    full = np.ones((5, 5), bool)
    assert dispensing_point(full, [full]) is None
    assert shooting_point(~full) is None
    assert shooting_point(np.eye(1, dtype=bool)) == (0.5, 0.5, 0.5)
