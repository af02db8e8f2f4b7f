"""What anchors reach, by hand and against a slow maximum."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from crystal.data.anchor_coverage import best_iou, by_side, coverage_of, object_boxes
from crystal.data.dataset import Instance, Record
from crystal.training.config import TrainConfig
from maskrcnn_jax.config import AnchorConfig
from maskrcnn_jax.rpn.anchors import pyramid_anchors
from tests.oracles import box_iou

ONE = AnchorConfig(strides=(8,), sizes=(16,), ratios=(1.0,))
TINY = TrainConfig.tiny().model


def record(*boxes, height=512, width=640, crowd=False) -> Record:
    instances = [Instance(1, tuple(map(float, box)), [], crowd, k) for k, box in enumerate(boxes, 1)]
    return Record(1, Path("a.png"), "a.png", height, width, tuple(instances))


def test_by_hand():
    """An anchor itself; half of one; one between four anchors; a needle across one."""
    boxes = np.array([[24, 24, 40, 40], [24, 24, 40, 32], [28, 28, 44, 44], [24, 30, 40, 34]], float)
    expected = [1, 0.5, 144 / (2 * 256 - 144), 4 / 16]
    assert np.allclose(best_iou(boxes, (64, 64), ONE), expected, atol=1e-6)


def test_against_a_slow_maximum():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (150, 2))  # more than one chunk
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (150, 2))], 1)
    anchors = AnchorConfig(strides=(8, 16), sizes=(12, 30), ratios=(2.0, 0.5))
    placed = pyramid_anchors((64, 80), strides=(8, 16), sizes=(12, 30), ratios=(2.0, 0.5))
    slow = box_iou(boxes[:20], placed.astype(float)).max(1)
    got = best_iou(boxes, (64, 80), anchors)
    assert got.shape == (150,)
    assert np.allclose(got[:20], slow, atol=1e-5)
    assert best_iou(np.zeros((0, 4)), (64, 80), anchors).shape == (0,)


def test_measured_in_the_letterbox_without_crowds():
    found = object_boxes(
        [record([0, 0, 640, 512]), record([9, 9, 20, 20], crowd=True), record([0, 0, 100, 50])], (256, 320)
    )
    assert found.places.tolist() == [[0, 0], [2, 0]]
    assert found.sides.tolist() == [[320, 256], [50, 25]]


def test_a_needle_is_out_of_reach_and_the_sentence_says_so():
    """Twice 60 x 4 pixels in a letterbox of half the size, and a compact one."""
    records = [("train", record([100, 100, 220, 108], [50, 50, 98, 98]))]
    coverage = coverage_of(records, TINY)
    assert coverage.missed.tolist() == [0]
    assert coverage.sentence().startswith(
        "1 of 2 objects (50.0 %) are reached by no anchor (IoU 0.5 or more) at 320 x 256"
    )
    assert "shorter side is 4.0 pixels" in coverage.sentence()
    assert by_side(coverage.objects.sides, coverage.best >= 0.5) == [("4 to 8", 1, 0.0), ("16 to 32", 1, 1.0)]
    # A setting that is said to help does: the needle is reached once anchors are long and small enough.
    long = AnchorConfig(TINY.anchors.strides, (15.5, 24, 48, 96, 160), (1 / 15, 1.0))
    assert not coverage_of(records, dataclasses.replace(TINY, anchors=long)).missed.size


def test_changes_are_what_they_say():
    rng = np.random.default_rng(0)
    corner = rng.uniform(10, 400, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 30, (60, 2))], 1)
    coverage = coverage_of([("train", record(*boxes))], TINY)
    larger = dataclasses.replace(TINY, image=dataclasses.replace(TINY.image, size=(512, 640)))
    again = coverage_of([("train", record(*boxes))], larger)
    missed = coverage.missed
    assert len(missed) > 10
    assert coverage.changes[0].setting == "image.size='(512, 640)'"
    assert coverage.changes[0].share == pytest.approx((again.best[missed] >= 0.5).mean())


def test_an_object_is_reached_at_the_best_of_the_zooms():
    """6 pixels in the whole image, 12 at zoom 2; one that fills the image does not grow."""
    records = [("train", record([100, 100, 112, 112], [0, 0, 640, 512]))]
    zoomed = dataclasses.replace(TINY, image=dataclasses.replace(TINY.image, zooms=(1.0, 2.0)))
    whole, close = (coverage_of(records, config) for config in (TINY, zoomed))
    assert whole.best[0] <= 36 / 144 + 1e-6
    assert close.best[0] > 0.5
    assert whole.best[1] == close.best[1]
    assert "and zooms 1 to 2" in close.sentence() or not close.missed.size
    # Wherever a crop puts it, it lies on the grid of anchors as it does in the middle.
    far = coverage_of([("train", record([600, 450, 612, 462]))], zoomed)
    assert far.best[0] > 0.5


def test_nothing():
    assert "no objects" in coverage_of([("train", record())], TINY).sentence()
    fine = coverage_of([("train", record([100, 100, 148, 148]))], TINY)
    assert fine.sentence().startswith("every object is reached")
    assert fine.changes == []
