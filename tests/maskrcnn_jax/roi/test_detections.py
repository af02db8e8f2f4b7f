import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.boxes.coding import MAX_LOG_SCALE
from maskrcnn_jax.config import BoxCoding, DetectionConfig
from maskrcnn_jax.roi.detections import select_detections
from maskrcnn_jax.structures import Proposals
from tests import oracles, recorded
from tests.traced import assert_finite_gradients, assert_jit_changes_nothing

P, K = 14, 4
WINDOW = np.float32([2, 3, 50, 40])
RULE = DetectionConfig(score_threshold=0.2, nms_iou=0.4, max_detections=9, candidates=P * K)
LIMITED = BoxCoding(max_log_scale=MAX_LOG_SCALE)


def refined(coding=LIMITED, far_edge=0, **options):
    """`select_detections` by RULE, or changes of it."""

    def run(logits, deltas, boxes, valid, window):
        proposals, config = Proposals(boxes, jnp.zeros(len(boxes)), valid), dataclasses.replace(RULE, **options)
        return select_detections(logits, deltas, proposals, window, config=config, coding=coding, far_edge=far_edge)

    return run


def detections(**options):
    return lambda *arrays: refined(**options)(*arrays).detections()


select = {one: jax.jit(detections(one_class=one)) for one in (True, False)}


def some_case(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-5, 40, (P, 2))
    boxes = np.float32(np.concatenate([corner, corner + rng.uniform(4, 25, (P, 2))], 1))
    return np.float32(2 * rng.normal(size=(P, K))), np.float32(rng.normal(size=(P, K, 4))), boxes, rng.random(P) < 0.8


def test_by_hand():
    """Class 1 wins on RoI 0, background on RoI 1; RoI 2 is class 2 on the same place, which does not suppress."""
    boxes = jnp.array([[5.0, 5.0, 15.0, 15.0], [20.0, 5.0, 30.0, 15.0], [5.0, 5.0, 15.0, 15.0]])
    logits = jnp.log(jnp.array([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]))
    deltas = jnp.zeros((3, 3, 4)).at[0, 1, 0].set(1.0)  # 0.1 of 10 pixels to the right
    case = logits, deltas, boxes, jnp.ones(3, bool), WINDOW

    def run(one_class):
        return jax.jit(detections(max_detections=4, candidates=9, one_class=one_class))(*case)

    one = run(one_class=True)
    assert one.classes.tolist() == [1, 2, 0, 0]
    assert one.valid.tolist() == [True, True, False, False]
    np.testing.assert_allclose(one.scores, [0.8, 0.6, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(one.boxes[:2], [[6, 5, 16, 15], [5, 5, 15, 15]], atol=1e-5)
    every = run(one_class=False)  # also 0.3 of class 1 on RoI 1; 0.2 of class 1 on RoI 2 overlaps RoI 0's by 9/11
    assert every.classes.tolist() == [1, 2, 1, 0]
    np.testing.assert_allclose(every.boxes[2], boxes[1], atol=1e-5)


@pytest.mark.parametrize("one_class", [True, False])
@given(st.integers(0, 10_000))
def test_equals_the_oracle(one_class, seed):
    logits, deltas, boxes, valid = some_case(seed)
    found = oracles.detections(logits, deltas, boxes, valid, WINDOW, one_class, 0.2, 0.4, 9, (10, 10, 5, 5))
    ours = select[one_class](logits, deltas, boxes, valid, WINDOW)
    n = len(found)
    assert ours.valid.tolist() == [True] * n + [False] * (9 - n)
    assert ours.classes.tolist() == [f[1] for f in found] + [0] * (9 - n)
    np.testing.assert_allclose(ours.scores[:n], [f[2] for f in found], rtol=1e-5)
    np.testing.assert_allclose(ours.boxes[:n], np.array([f[0] for f in found]).reshape(n, 4), atol=1e-4)
    assert not ours.boxes[n:].any()


@pytest.mark.parametrize("one_class", [True, False])
def test_what_was_there_before_the_suppression(one_class):
    """Each box is its RoI moved by its class's deltas, best first; those that fell overlap a better one."""
    logits, deltas, boxes, valid = some_case(4)
    run = jax.jit(refined(max_detections=P * K, one_class=one_class, far_edge=1))
    found = jax.tree.map(np.asarray, run(logits, deltas, boxes, valid, WINDOW))
    n = int(found.valid.sum())
    roi, classes, scores = found.roi[:n], found.classes[:n], found.scores[:n]
    assert found.valid[:n].all()
    assert valid[roi].all()
    assert (classes > 0).all()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(scores, probabilities[roi, classes], rtol=1e-5)
    assert (np.diff(scores) <= 0).all()
    edge = np.array([0, 0, 1, 1])
    moved = oracles.decode_boxes(deltas[roi, classes], boxes[roi] - edge, (10, 10, 5, 5), MAX_LOG_SCALE)
    inside = oracles.clip_boxes(moved, WINDOW - edge)
    np.testing.assert_allclose(found.boxes[:n], inside + edge, atol=1e-4)
    kept = found.selected[found.filled]
    for other in sorted(set(range(n)) - set(kept.tolist())):
        better = kept[(kept < other) & (classes[kept] == classes[other])]
        assert oracles.box_iou(inside[other][None], inside[better]).max() > 0.4


@given(st.integers(0, 10_000), st.sampled_from([0.0, -7.0, 1e4]))
def test_rows_that_are_not_valid_change_nothing(seed, garbage):
    logits, deltas, boxes, valid = some_case(seed)
    others = [np.where(valid.reshape(-1, *[1] * (a.ndim - 1)), a, np.float32(garbage)) for a in (logits, deltas, boxes)]
    for a, b in zip(
        select[False](logits, deltas, boxes, valid, WINDOW), select[False](*others, valid, WINDOW), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_order_of_proposals_does_not_matter():
    logits, deltas, boxes, valid = some_case(3)
    order = np.random.default_rng(0).permutation(P)
    a = select[False](logits, deltas, boxes, valid, WINDOW)
    b = select[False](logits[order], deltas[order], boxes[order], valid[order], WINDOW)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-5)
    np.testing.assert_array_equal(a.classes, b.classes)


def test_least_side_few_candidates_far_edge_and_nothing():
    logits, deltas, boxes, valid = some_case(5)

    def run(**options):
        return jax.jit(detections(**options, one_class=False))(logits, deltas, boxes, valid, WINDOW)

    thick = run(min_side=12.0)
    sides = (thick.boxes[:, 2:] - thick.boxes[:, :2])[np.asarray(thick.valid)]
    assert 0 < len(sides) < run().valid.sum()
    assert sides.min() >= 12
    assert run(candidates=2).valid.sum() <= 2
    assert not run(score_threshold=1.1).valid.any()
    edge = np.float32([0, 0, 1, 1])
    with_edge = jax.jit(detections(one_class=False, far_edge=1))
    shifted = with_edge(logits, deltas, boxes + edge, valid, WINDOW + edge)
    expected = run()
    filled = np.asarray(expected.valid)
    np.testing.assert_allclose(shifted.boxes[filled], expected.boxes[filled] + edge, atol=1e-5)


def test_jit_changes_nothing_one_trace_finite_gradients():
    cases = [(*some_case(seed), WINDOW) for seed in (1, 2)]
    run = detections(one_class=True)
    assert_jit_changes_nothing(run, *cases, atol=1e-5)
    logits, deltas, boxes, valid = some_case(3)
    valid, window = jnp.asarray(valid), jnp.asarray(WINDOW)
    assert_finite_gradients(lambda c, d, b: run(c, d, b, valid, window), 90 * logits, 90 * deltas, boxes)


@pytest.mark.parametrize(
    ("name", "score", "iou", "count"),
    [
        ("detections", 0.0, 0.3, 100),
        ("detections_conf010", 0.1, 0.3, 100),
        ("detections_conf005_nms05_max20", 0.05, 0.5, 20),
    ],
)
def test_matterport(name, score, iou, count):
    """DetectionLayer on 1000 proposals of 81 classes, in normalised coordinates. Logits are rebuilt from the best
    class's probability, the rest shared evenly among the other classes.
    """
    g = recorded.load("matterport_detections")
    p, best = g["best_probability"], g["best_class"].astype(int)
    probabilities = np.tile((1 - p)[:, None] / 80, (1, 81))
    probabilities[np.arange(1000), best] = p
    deltas = np.zeros((1000, 81, 4), np.float32)
    deltas[np.arange(1000), best] = recorded.xyxy(g["best_deltas"])
    rois = recorded.xyxy(g["rois"])
    options = dict(one_class=True, score_threshold=score, nms_iou=iou, max_detections=count, candidates=1000)
    run = detections(coding=BoxCoding(), **options)
    window = recorded.xyxy(g["window_norm"])
    ours = jax.jit(run)(np.float32(np.log(probabilities)), deltas, rois, np.ones(1000, bool), window)
    expected = g[name].reshape(-1, 6)
    n = int((expected[:, 5] > 0).sum())
    assert ours.valid.sum() == n
    np.testing.assert_allclose(ours.scores[:n], expected[:n, 5], atol=2e-6)
    # Scores closer than float32 can tell apart may change places: compare row by row after sorting by box as well.
    order = np.lexsort((np.asarray(ours.boxes[:n, 0]), -np.round(np.asarray(ours.scores[:n]), 5)))
    theirs = np.lexsort((expected[:n, 1], -np.round(expected[:n, 5], 5)))
    np.testing.assert_array_equal(ours.classes[:n][order], expected[:n, 4][theirs])
    np.testing.assert_allclose(ours.boxes[:n][order], recorded.xyxy(expected[:n, :4])[theirs], atol=1e-5)
