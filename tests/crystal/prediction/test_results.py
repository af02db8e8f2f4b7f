"""What was found, measured; with a class drop and without; and back from JSON as it was."""

import cv2
import numpy as np
import pytest

from crystal.prediction.results import LEAST_SCORE, MOST_BELOW, Result, counted, measured, outline_of
from tests.predictions import ONE_CLASS, WITH_DROP, disc, predicted

SETTINGS = {"width": 100, "score_threshold": 0.5, "outside": False}


def in_a_drop():
    """A drop with a crystal and a doubtful one, a satellite, a crystal beside."""
    return predicted(
        (disc((40, 40), 30), 0.95, 2),
        (disc((88, 12), 6), 0.97, 2),
        (disc((30, 40), 6), 0.8, 1),
        (disc((92, 70), 5), 0.7, 1),
        (disc((50, 30), 4), 0.2, 1),
    )


def test_crystals_in_and_beside_the_drop():
    crystals, drop = measured(in_a_drop(), WITH_DROP, **SETTINGS)
    assert [(c.kind, c.score, c.outside) for c in crystals] == [
        ("crystal", 0.8, False),
        ("crystal", 0.7, True),
        ("crystal", 0.2, False),
    ]
    assert drop.score == 0.95, "the largest, not the surest"
    assert drop.area == disc((40, 40), 30).sum()
    assert drop.centre == pytest.approx((40.5, 40.5), abs=0.1)
    assert len(counted(crystals, 0.5, outside=False)) == 1
    assert len(counted(crystals, 0.5, outside=True)) == 2
    assert drop.dispense.x > 45, "away from the crystal at the left; the doubtful one is no obstacle"
    assert crystals[0].shoot[:2] == pytest.approx((30.5, 40.5), abs=0.1)


def test_crystals_keep_off_the_dispensing_point_if_they_count():
    """One that lies mostly beside the drop is no obstacle, unless it is asked for."""
    found = predicted((disc((40, 40), 30), 0.9, 2), (disc((84, 40), 30), 0.9, 1))
    points = [measured(found, WITH_DROP, **SETTINGS | {"outside": o})[1].dispense.x for o in (False, True)]
    assert points[1] < points[0] - 5


def test_without_a_drop_all_count():
    """A model that knows drops and sees none, and one that knows none."""
    crystals = ((disc((30, 40), 6), 0.8, 1), (disc((92, 70), 5), 0.7, 1))
    found, drop = measured(predicted(*crystals, (disc((40, 40), 30), 0.3, 2)), WITH_DROP, **SETTINGS)
    assert ([c.outside for c in found], drop) == ([False, False], None)
    found, drop = measured(predicted(*crystals), ONE_CLASS, **SETTINGS)
    assert ([c.outside for c in found], drop) == ([None, None], None)
    assert len(counted(found, 0.5, outside=False)) == 2


def test_what_is_too_doubtful_is_left_out_but_never_what_reaches_the_threshold():
    many = [(disc((20, 20), 3), 0.3, 1)] * (MOST_BELOW + 20) + [(disc((20, 20), 3), LEAST_SCORE - 0.01, 1)]
    assert len(measured(predicted(*many), ONE_CLASS, **SETTINGS)[0]) == MOST_BELOW
    assert len(measured(predicted(*many), ONE_CLASS, **SETTINGS | {"score_threshold": 0.0})[0]) == len(many)


def test_outlines_in_few_points_stay_near_the_border():
    mask = disc((50, 40), 30) & ~disc((50, 5), 8)
    [flat] = outline_of(mask, 1.0)
    again = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(again, [np.array(flat, np.int32).reshape(-1, 2)], 1)
    assert len(flat) < 60
    assert (again.astype(bool) & mask).sum() / (again.astype(bool) | mask).sum() > 0.95
    assert outline_of(np.zeros((4, 4), bool), 1.0) == []
    assert len(outline_of(disc((10, 10), 3) | disc((60, 60), 3), 1.0)) == 2


@pytest.mark.parametrize("found", [in_a_drop(), predicted()])
def test_a_result_comes_back_from_json(found):
    crystals, drop = measured(found, WITH_DROP, **SETTINGS)
    result = Result("/a/b\udce4.png", "b\udce4.png", "b", 80, 100, crystals, drop, [{"id": 1}], "abc", (3, 4))
    back = Result.from_json(result.to_json())
    assert back.signature == (3, 4)
    assert (back.drop and back.drop.dispense) == (drop and drop.dispense)
    for one, other in zip(back.crystals, crystals, strict=True):
        assert (one.score, one.area, one.shoot, one.outside, one.outline) == (
            *(other.score, other.area, other.shoot, other.outside, other.outline),
        )
    with pytest.raises((ValueError, TypeError)):
        Result.from_json(result.to_json()[:-9])
