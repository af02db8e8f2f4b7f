"""One detection for each object, whatever views it was found in and wherever their borders lie."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle_tools

from crystal.prediction.merging import merge
from crystal.prediction.predictor import joined, to_original
from maskrcnn_jax.image.letterbox import fit
from maskrcnn_jax.image.tiles import views
from maskrcnn_jax.structures import Detections

SIZE = (90, 120)


def encoded(masks):
    return [rle_tools.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


def merged_masks(masks, scores, classes, seen_in, iou_threshold, inside_threshold):
    """`merge` on whole masks, pair by pair: (index, score) of what is kept."""
    kept = {}
    for i in sorted(range(len(masks)), key=lambda i: (-scores[i], i)):
        same = inside = False
        for k in kept:
            if classes[i] == classes[k] and seen_in[i] != seen_in[k]:
                shared, a, b = (masks[i] & masks[k]).sum(), masks[i].sum(), masks[k].sum()
                same = same or shared >= iou_threshold * (a + b - shared)
                inside = inside or shared >= inside_threshold * min(a, b)
        if not same:
            kept[i] = scores[i] * 0.4 if inside else scores[i]
    return sorted(kept.items(), key=lambda pair: -pair[1])


@given(st.integers(0, 2**32 - 1))
def test_as_pair_by_pair(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 25))
    masks = np.zeros((count, 12, 15), bool)
    for mask in masks:
        top, left = rng.integers(0, (10, 13))
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = True
        mask &= rng.random(mask.shape) < rng.choice([0.7, 1.0])
        mask[top, left] = True
    scores, classes, seen_in = rng.integers(1, 6, count) / 5, rng.integers(1, 3, count), rng.integers(0, 3, count)
    iou, inside = rng.choice([0.3, 0.5, 0.8]), rng.choice([0.5, 0.7, 1.0])
    found = merge(encoded(masks), scores, classes, seen_in, iou_threshold=iou, inside_threshold=inside)
    assert list(zip(*found, strict=True)) == merged_masks(masks, scores, classes, seen_in, iou, inside)


def test_needles_that_cross_are_two_and_a_facet_is_doubted():
    masks = np.zeros((3, 40, 40), bool)
    masks[0, 18:21], masks[1, :, 18:21], masks[2, 18:21, 5:15] = True, True, True
    found = merge(encoded(masks), np.array([0.5, 0.9, 0.8]), np.ones(3, int), np.array([0, 1, 2]))
    assert found.kept.tolist() == [1, 2, 0]  # the facet is better than the needle that it is a part of
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.2])
    found = merge(encoded(masks), np.array([0.9, 0.8, 0.5]), np.ones(3, int), np.array([0, 1, 2]))
    assert found.kept.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.2])


def test_more_masks_than_pycocotools_counts_at_once():
    masks = np.zeros((300, 30, 40), bool)
    for i, mask in enumerate(masks):
        mask[i // 20 * 2, i % 20 * 2] = True
    assert len(merge(encoded(masks), np.linspace(1, 0.5, 300), np.ones(300, int), np.arange(300)).kept) == 300


def ideal_detections(view, place, boxes):
    """What a network would find that sees objects of 5 pixels or more, also cut ones, and is surest of those."""
    seen = np.clip(boxes, np.tile(view.box[:2], 2), np.tile(view.box[2:], 2))
    sides = (seen[:, 2:] - seen[:, :2]) * place.ratio
    visible = (sides > 0).all(1) & (sides.max(1) >= 5)
    cut = (seen != boxes).any(1)
    local = place.to_letterbox(seen - np.tile(view.box[:2], 2))
    scores = np.where(cut, 0.95, 0.6 + 0.01 * np.arange(len(boxes)))
    masks = np.ones((len(boxes), 4, 4), np.float32)
    return Detections(local.astype(np.float32), np.ones(len(boxes), np.int32), scores, masks, visible)


def found_in(boxes, height, width):
    """Masks that views, the rule of ownership and merging make of the ideal detections, and of how many views."""
    predictions = []
    for view in views(height, width, SIZE, zooms=(1.0, 2.0, 4.0)):
        place = fit(view.height, view.width, SIZE)
        detections = ideal_detections(view, place, boxes)
        predictions.append(to_original(detections, place, view=view, height=height, width=width))
    return joined(predictions).prediction, len(predictions)


def test_a_scene_that_slides_under_the_grid_gives_the_same_crystals():
    """Objects of 6 to 200 pixels in an image of 400 x 500; each found once and whole, at the seams as elsewhere."""
    scene = np.array(
        [[20, 20, 220, 190], [60, 230, 150, 300], [250, 30, 262, 42], [270, 33, 290, 46], [300, 100, 306, 106]]
        + [[235 + 17 * i, 215 + 9 * (i % 3), 235 + 17 * i + 12, 215 + 9 * (i % 3) + 8] for i in range(8)]
        + [[25, 310, 340, 322]],  # a needle
        float,
    )
    for shift in [(0, 0), (1, 0), (7, 3), (13, 29), (40, 41), (64, 11), (99, 60), (120, 73)]:
        boxes = scene + np.tile(shift, 2)
        found, count = found_in(boxes, 400, 500)
        assert count == 1 + 9 + 25
        order = np.lexsort(found.boxes.T)
        np.testing.assert_allclose(found.boxes[order], boxes[np.lexsort(boxes.T)], atol=1e-3)
        areas = [int(rle_tools.area(found.rles[i])) for i in order]
        assert areas == (boxes[:, 2:] - boxes[:, :2]).prod(1)[np.lexsort(boxes.T)].astype(int).tolist()
        assert {1.0, 4.0} <= set(found.zooms)
        assert (np.diff(found.scores) <= 0).all()
