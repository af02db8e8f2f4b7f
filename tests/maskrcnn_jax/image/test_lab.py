"""LAB in eight bits against OpenCV, to the last bit."""

import cv2
import numpy as np
import pytest

from maskrcnn_jax.image.lab import lab_to_rgb, rgb_to_lab
from tests import oracles
from tests.traced import assert_jit_changes_nothing, default_jit

to_lab, to_rgb = default_jit(rgb_to_lab), default_jit(lab_to_rgb)


def every_colour(step):
    """All bytes from 0 in steps, and 255, in each channel."""
    levels = np.unique(np.append(np.arange(0, 256, step), 255)).astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)


@pytest.mark.parametrize("first", range(4))
def test_equals_opencv_on_all_colours(first):
    # A quarter of the 2^24 colours at a time.
    colours = np.arange(first << 22, (first + 1) << 22)
    colours = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8)[None]
    np.testing.assert_array_equal(to_lab(colours), cv2.cvtColor(colours, cv2.COLOR_RGB2LAB))
    np.testing.assert_array_equal(to_rgb(colours), cv2.cvtColor(colours, cv2.COLOR_LAB2RGB))


def test_equals_the_oracle_within_a_level():
    """The formulas in float64: half a level is the rounding to bytes, the rest that of OpenCV's integers on the way."""
    colours = every_colour(37)[0]
    expected = np.array([oracles.rgb_to_lab(colour) for colour in colours])
    distance = np.abs(np.asarray(rgb_to_lab(colours)) - expected)
    assert distance.max() <= 1.5
    assert distance.mean() <= 0.3


def test_there_and_back_is_close():
    colours = every_colour(15)
    moved = np.abs(np.asarray(lab_to_rgb(rgb_to_lab(colours))).astype(int) - colours)
    assert moved.mean() < 1.5
    assert moved.max() <= 25  # dark, saturated blues: L is coarse there


def test_greys_stay_grey_within_a_level():
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    lab = np.asarray(rgb_to_lab(greys))
    assert (lab[:, 1:] == 128).all()
    assert np.all(np.diff(lab[:, 0].astype(int)) >= 0)
    assert np.abs(np.asarray(lab_to_rgb(lab)).astype(int) - greys).max() <= 2


def test_shapes_and_jit():
    colours = every_colour(60)[0]
    assert rgb_to_lab(colours[:0]).shape == (0, 3)
    for function in (rgb_to_lab, lab_to_rgb):
        assert_jit_changes_nothing(function, (colours,), (colours[::-1],))
