import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskrcnn_jax.roi.masks import maskness, paste, paste_patch
from tests import oracles, recorded, strategies

BLOB = np.random.default_rng(0).random((7, 7))


def overlap(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def test_by_hand():
    """A left half that is inside, on a box over the pixels 2..5 of a row: the middle is where 0.5 is reached."""
    half = np.array([[1.0, 0.0], [1.0, 0.0]])
    frame = paste(half, np.array([2.0, 0.0, 6.0, 2.0]), height=3, width=8)
    assert frame[:2].tolist() == [[False, False, True, True, False, False, False, False]] * 2
    assert not frame[2].any()
    frame = paste(half.T, np.array([2.0, 0.0, 6.0, 2.0]), height=3, width=8)
    assert frame[:, 2:6].all(1).tolist() == [True, False, False]


@pytest.mark.parametrize("border", ["edge", "zero"])
@given(strategies.boxes(1, limit=20, least_side=0.5, most_side=30))
def test_equals_the_oracle(border, boxes):
    box = boxes[0] + np.float32(0.01)
    ours = paste(BLOB, box, height=19, width=23, border=border)
    np.testing.assert_array_equal(ours, oracles.paste_mask(BLOB, box, 19, 23, border))


@given(strategies.boxes(1, limit=30, most_side=30))
def test_a_full_mask_is_its_box(boxes):
    x1, y1, x2, y2 = boxes[0]
    frame = paste(np.ones((5, 5)), boxes[0], height=40, width=30)
    rows, columns = np.arange(40)[:, None] + 0.5, np.arange(30) + 0.5
    np.testing.assert_array_equal(frame, (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2))
    assert not paste(np.zeros((5, 5)), boxes[0], height=40, width=30).any()


@given(strategies.boxes(1, limit=20, least_side=1, most_side=30), st.integers(-9, 9), st.integers(-9, 9))
def test_moves_with_its_box(boxes, right, down):
    patch, top, left = paste_patch(BLOB, boxes[0] + 50, height=150, width=150)
    shift = np.float32([right, down, right, down])
    moved, moved_top, moved_left = paste_patch(BLOB, boxes[0] + 50 + shift, height=150, width=150)
    np.testing.assert_array_equal(patch, moved)
    assert (moved_top - top, moved_left - left) == (down, right)


def test_degenerate():
    for box in ([5, 5, 5, 9], [9, 9, 4, 4], [-9, -9, -2, -2], [50, 50, 60, 60], [0, 0, 0, 0]):
        assert not paste(np.ones((3, 3)), np.float64(box), height=20, width=20).any()
    threshold = paste(np.full((3, 3), 0.5), np.array([0.0, 0.0, 4.0, 4.0]), height=5, width=5)
    assert threshold.sum() == 16  # 0.5 itself belongs to the object
    assert paste(np.full((3, 3), 0.4), np.array([0.0, 0.0, 4.0, 4.0]), height=5, width=5, threshold=0.3).sum() == 16


def frames(packed):
    return np.unpackbits(packed)[: 5 * 60 * 80].reshape(5, 60, 80).astype(bool)


def test_detectron2():
    """It fades to 0 beyond the box: border "zero". Not a pixel differs."""
    g = recorded.load("pasting")
    for mask, box, expected in zip(g["masks"], g["boxes"], frames(g["detectron2"]), strict=True):
        np.testing.assert_array_equal(paste(mask, box, height=60, width=80, border="zero"), expected)


def test_torchvision():
    """It pads the mask by a cell, grows the box with it, and cuts the box to whole pixels: done here before pasting."""
    g = recorded.load("pasting")
    for mask, box, expected in zip(g["masks"], g["boxes"], frames(g["torchvision"]), strict=True):
        centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * 30 / 28
        x1, y1, x2, y2 = np.trunc([*(centre - half), *(centre + half)])
        ours = paste(np.pad(mask, 1), np.array([x1, y1, x2 + 1, y2 + 1]), height=60, width=80)
        assert overlap(ours, expected) >= 0.99


def test_matterport():
    """It resizes to a box of whole pixels, reading 0 outside."""
    g = recorded.load("pasting")
    height, width = g["unmold_shape"]
    expected = np.unpackbits(g["unmold_out"])[: height * width].reshape(height, width).astype(bool)
    box = recorded.xyxy(g["unmold_box"]).astype(float)
    ours = paste(g["unmold_in"], box, height=int(height), width=int(width), border="zero")
    assert overlap(ours, expected) >= 0.99


# Thresholds that float32 holds exactly: NumPy compares float32 with them, plain Python compares doubles.
@given(hnp.arrays(np.float32, (3, 4, 4), elements=st.floats(0, 1, width=32)), st.floats(0.125, 1, width=32))
def test_maskness_is_the_mean_over_the_object(masks, threshold):
    cells = [[float(p) for p in mask.flat if p >= threshold] for mask in masks]
    expected = [np.mean(own) if own else 0.0 for own in cells]
    np.testing.assert_allclose(maskness(masks, threshold=threshold), expected, rtol=1e-5)


def test_maskness_of_nothing():
    assert maskness(np.zeros((0, 28, 28))).shape == (0,)
    with pytest.raises(ValueError, match="maskness: threshold"):
        maskness(np.zeros((28, 28)), threshold=2)
