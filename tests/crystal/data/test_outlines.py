"""Polygons that cross themselves, against a slow look at every pair of edges; masks cut out of run lengths."""

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle_tools
from scipy import ndimage

from crystal.data.outlines import CLEAR, crosses_itself, cut, largest_part


def slow(points: np.ndarray) -> bool:
    """Every pair of edges: the crossing's place on both, by Cramer's rule, at least CLEAR inside both."""
    edges = list(zip(points, np.roll(points, -1, 0), strict=True))
    for (a, b), (c, d) in itertools.combinations(edges, 2):
        u, v = b - a, d - c
        cross = u[0] * v[1] - u[1] * v[0]
        if abs(cross) < 1e-12:
            continue
        s = ((c - a)[0] * v[1] - (c - a)[1] * v[0]) / cross
        t = ((c - a)[0] * u[1] - (c - a)[1] * u[0]) / cross
        sine = abs(cross) / (np.hypot(*u) * np.hypot(*v))
        inside = [min(s, 1 - s) * np.hypot(*u) * sine, min(t, 1 - t) * np.hypot(*v) * sine]
        if min(inside) > CLEAR:
            return True
    return False


def test_random_polygons():
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(150):
        n = int(rng.integers(3, 9))
        points = rng.uniform(0, 50, (n, 2))
        if rng.random() < 0.5:  # sorted around the middle: never crosses
            points = points[np.argsort(np.arctan2(*(points - points.mean(0)).T))]
        answers.append(crosses_itself(points))
        assert answers[-1] == slow(points), points
    assert 30 < sum(answers) < 120


@pytest.mark.parametrize("count", [3, 255, 256, 257, 5000])
def test_a_circle_and_one_with_two_corners_exchanged(count):
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    points = 500 + 400 * np.stack([np.cos(angle), np.sin(angle)], 1)
    assert not crosses_itself(points)
    if count > 3:
        points[[5, count // 2]] = points[[count // 2, 5]]
        assert crosses_itself(points)


def test_touching_and_retracing_is_no_crossing():
    spike = np.array([[0, 0], [10, 0], [10, 5], [18, 5], [10, 5], [10, 10], [0, 10]], float)  # out and back
    at_a_corner = np.array([[0, 0], [5, 5], [10, 0], [10, 10], [5, 5], [0, 10]], float)
    in_a_row = np.stack([np.linspace(0, 1, 9) * 7.3, np.linspace(0, 1, 9) * 1.7], 1)
    in_a_row = np.concatenate([in_a_row, [[0.0, 9.0]]])
    twice = np.array([[0, 0], [4, 0], [4, 0], [4, 4], [0, 4], [0, 4]], float)
    for points in (spike, at_a_corner, in_a_row, twice):
        assert not crosses_itself(points)


def test_outlines_of_pixels_never_cross():
    rng = np.random.default_rng(1)
    mask = cv2.GaussianBlur(rng.random((200, 200)), (0, 0), 2) > 0.505
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    assert len(found) > 20
    assert not any(crosses_itself(part.reshape(-1, 2).astype(float)) for part in found if len(part) > 2)


def test_run_lengths_are_cut_as_their_pixels_are():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.3, 0.8, 1.0):
        for _ in range(40):
            mask = rng.random(rng.integers(1, 30, 2)) < share
            rle: Any = rle_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
            for ours, theirs in zip(cut(rle), cut(mask), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_runs_of_no_pixel_change_nothing():
    """Rows 1 to 3 of column 1, written with runs of length 0 as some programs do."""
    runs: Any = {"size": [4, 3], "counts": [1, 0, 4, 2, 0, 1, 4, 0]}
    rle: Any = rle_tools.frPyObjects(runs, 4, 3)
    patch, top, left = cut(rle)
    frame, expected = np.zeros((4, 3), bool), np.zeros((4, 3), bool)
    frame[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    expected[1:, 1] = True
    np.testing.assert_array_equal(frame, expected)


def test_the_largest_part_of_random_masks():
    rng = np.random.default_rng(0)
    several = 0
    for share in np.linspace(0, 0.7, 100):
        mask = rng.random(tuple(rng.integers(1, 20, 2))) < share
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        parts = [labels == 1 + i for i in range(count)] or [mask]
        most = max(part.sum() for part in parts)
        assert any(np.array_equal(largest_part(mask), part) for part in parts if part.sum() == most)
        several += count > 1
    assert several > 50
