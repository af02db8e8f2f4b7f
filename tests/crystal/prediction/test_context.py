"""Scores in the context of their picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystal.data.outlines import encode_patch
from crystal.prediction.context import LEAST, SURE, in_context
from crystal.prediction.predictor import Joined, Prediction, weighed
from crystal.prediction.zooms import trust

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=8).map(np.array)


@given(SCORES)
def test_order_stays_and_scores_stay_in_range(scores):
    found = in_context(scores, scores.max())
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(scores)]) >= 0).all()


@given(SCORES)
def test_from_a_half_on_a_detection_counts_by_two_thresholds(scores):
    counts = (scores >= LEAST) & (scores.max() >= SURE)
    np.testing.assert_array_equal(in_context(scores, scores.max()) >= 0.5, counts)


def test_a_sure_crystal_of_a_tile_counts_though_training_showed_no_closer_views():
    """Small crystals show in tiles alone: whatever scores there are multiplied by, one of 0.9 must reach SURE."""
    assert 0.9 * trust(2.0, (1.0, 1.0)) >= SURE


CRYSTAL, DROP, OTHER = 1, 2, 3


def found(scores, classes, *, where=None, complete_from=0.0):
    """Detections as wide as the image and two rows high, from row 0 on or from `where`; each of its own."""
    rles = []
    for top in where or [0] * len(scores):
        rles.append(encode_patch(np.ones((2, 9), bool), top, 0, height=9, width=9))
    one = Prediction(
        np.zeros((len(scores), 4)), np.array(scores), np.array(classes, int), rles, np.ones(len(scores)), complete_from
    )
    return Joined([one], np.arange(len(scores)), one)


def counted(score):
    return 0.5 + 0.5 * (score - LEAST) / (1 - LEAST)


def test_classes_do_not_vouch_for_each_other_and_drops_stay():
    before = found([0.95, 0.9, 0.5, 0.4], [DROP, CRYSTAL, OTHER, CRYSTAL], where=[0, 0, 0, 1])
    after = weighed(before, drops=[DROP])
    assert dict(zip(after.kept.tolist(), after.prediction.scores.tolist(), strict=True)) == pytest.approx(
        {0: 0.95, 1: counted(0.9), 2: 0.5 * 0.5 / SURE, 3: counted(0.4)}
    )
    assert (np.diff(after.prediction.scores) <= 0).all()
    assert after.prediction.rles == [before.prediction.rles[i] for i in after.kept]
    assert after.found[0].scores[after.kept].tolist() == after.prediction.scores.tolist(), "of the views as well"


@pytest.mark.parametrize(("drop", "counts"), [(0.9, False), (0.4, True)])
def test_what_lies_outside_a_drop_does_not_vouch(drop, counts):
    """Rows 0 and 1 are the drop's and hold a doubtful crystal; a sure one lies in rows 5 and 6."""
    after = weighed(found([drop, 0.5, 0.95], [DROP, CRYSTAL, CRYSTAL], where=[0, 0, 5]), drops=[DROP])
    doubtful = after.prediction.scores[after.kept.tolist().index(1)]
    assert (doubtful >= 0.5) == counts


def test_where_slots_were_full_the_limit_moves_with_the_scores():
    after = weighed(found([0.9, 0.4], [CRYSTAL, CRYSTAL], complete_from=0.4))
    assert after.prediction.complete_from == pytest.approx(after.prediction.scores.min())


def test_an_empty_image_stays_empty():
    assert len(weighed(found([], [])).prediction.scores) == 0
