"""What was found, false and missed agrees with the matching that the mAP is made of."""

from pathlib import Path

import numpy as np

from crystal.evaluation.outcomes import FALSE, FOUND, MISSED, ImageResult, draw_truth, judge

IMAGE = np.full((120, 160, 3), 128, np.uint8)


def square(x, y, side=20):
    mask = np.zeros((120, 160), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def result(truth, prediction, scores, crowd=None):
    return ImageResult(
        Path("drop.png"),
        {
            "masks": np.array(truth).reshape(-1, 120, 160),
            "classes": [1] * len(truth),
            "crowd": crowd or [False] * len(truth),
        },
        {"masks": np.array(prediction).reshape(-1, 120, 160), "classes": [1] * len(prediction), "scores": scores},
    )


def has(picture, colour):
    return (np.abs(picture.astype(int) - colour).max(-1) < 40).any()


def test_one_found_one_missed_one_false_one_under_the_threshold():
    truth = [square(10, 10), square(50, 10), square(90, 10, 10)]
    verdict = judge(IMAGE, result(truth, [truth[0], square(10, 80), truth[1]], [0.9, 0.8, 0.2]), score_threshold=0.5)
    assert (verdict.found, verdict.missed, verdict.false) == (1, [1, 2], 1)
    assert verdict.missed_area == 250
    assert verdict.found_area == 400
    np.testing.assert_allclose(verdict.ap, (1 + 2 / 3) / 3)  # the third prediction counts here
    assert str(verdict) == "1 of 3 crystals found, 1 false; AP\N{NO-BREAK SPACE}0.56"
    assert verdict.explain().endswith("The missed ones cover 250 pixels in the median, the found ones 400.")
    for colour in (FOUND, FALSE, MISSED):
        assert has(verdict.picture, colour)
    assert (IMAGE == 128).all()


def test_predictions_in_a_crowd_are_neither_found_nor_false():
    verdict = judge(IMAGE, result([square(10, 10, 80)], [square(20, 20)], [0.9], crowd=[True]))
    assert (verdict.found, verdict.missed, verdict.false) == (0, [], 0)
    assert str(verdict) == "0 of 0 crystals found, 0 false"


def test_nothing_anywhere():
    verdict = judge(IMAGE, result([], [], []))
    assert (verdict.found, verdict.missed, verdict.false) == (0, [], 0)
    np.testing.assert_array_equal(verdict.picture, IMAGE)
    np.testing.assert_array_equal(draw_truth(IMAGE, {"masks": [], "classes": []}), IMAGE)
