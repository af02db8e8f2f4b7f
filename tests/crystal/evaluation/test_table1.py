"""Figures by hand: two seeds, four images of which the last has no object."""

import math

import pytest

from crystal.evaluation.table1 import MEASURES, ap_matrix, measures


def evaluation(half, stricter, drawn, **numbers):
    ap = {"0.50": [*half, None], "0.65": [*stricter, None]}
    names = {key: None for key, measure in MEASURES.items() if measure.iou is None}
    return {"numbers": names | numbers, "drawn": {"10": drawn, "100": [0, 1, 2]}, "ap": ap}


PLAIN = [
    evaluation([0.2, 0.4, 0.6], [0.1, 0.2, 0.3], [0, 2], coco_segm_ap=0.3),
    evaluation([0.4, 0.4, 0.4], [0.1, 0.1, 0.1], [1, 2], coco_segm_ap=0.5),
]
CLAHE = [
    evaluation([0.3, 0.5, 0.7], [0.4, 0.5, 0.6], [0, 2], coco_segm_ap=0.4),
    evaluation([0.5, 0.5, 0.5], [0.4, 0.4, 0.4], [1, 2], coco_segm_ap=0.7),
]


def test_means_over_the_images_that_count():
    found = measures({"plain": PLAIN, "clahe": CLAHE})
    assert list(found) == list(MEASURES)
    assert found["map_050_10"]["arms"]["plain"]["by_seed"] == [pytest.approx(0.4), pytest.approx(0.4)]
    assert found["map_065_100"]["arms"]["clahe"]["mean"] == pytest.approx(0.45)
    assert [found[key]["images"] for key in ("map_050_10", "map_065_100", "map_050_all", "recall")] == [2, 3, 3, 4]
    assert found["map_065_100"]["paper"] == (0.302, 0.430)
    assert math.isnan(found["precision"]["arms"]["plain"]["mean"])


def test_differences_and_their_intervals():
    found = measures({"plain": PLAIN, "clahe": CLAHE})
    difference = found["map_050_all"]["differences"]["clahe"]
    assert difference["by_seed"] == [pytest.approx(0.1), pytest.approx(0.1)]
    assert difference["interval_images"] == pytest.approx((0.1, 0.1))  # better by as much on every image
    coco = found["coco_segm_ap"]["differences"]["clahe"]
    assert (coco["mean"], coco["deviation"]) == (pytest.approx(0.15), pytest.approx(0.0707, abs=1e-4))
    assert "interval_images" not in coco
    assert list(found["recall"]["differences"]) == ["clahe"]
    assert list(measures({"plain": PLAIN, "clahe": CLAHE, "scratch": PLAIN})["recall"]["differences"]) == [
        "clahe",
        "init",
    ]


def test_images_that_were_not_drawn_or_hold_nothing_are_nan():
    matrix = ap_matrix(PLAIN, MEASURES["map_050_10"])
    assert [[not math.isnan(v) for v in row] for row in matrix] == [
        [True, False, True, False],
        [False, True, True, False],
    ]
