import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.boxes.coding import MAX_LOG_SCALE
from maskrcnn_jax.config import BoxCoding, MaskRCNNConfig, ProposalConfig
from maskrcnn_jax.rpn.anchors import pyramid_anchors
from maskrcnn_jax.rpn.proposals import propose
from tests import oracles, recorded
from tests.traced import assert_finite_gradients, assert_jit_changes_nothing

SIZES = (60, 15)
ANCHORS = jnp.asarray(pyramid_anchors((32, 40), strides=(8, 16), sizes=(12, 24), ratios=(0.5, 1.0, 2.0)))[:75]
WINDOW = jnp.array([3.0, 2.0, 37.0, 30.0])
RULE = ProposalConfig(per_level=True, score="logit", before_nms=(25, 25), after_nms=(20, 20), nms_iou=0.5, min_side=2.0)
PLAIN = BoxCoding((1.0, 1.0, 1.0, 1.0), MAX_LOG_SCALE)


def ranked(level_sizes=SIZES, coding=PLAIN, config=RULE, **options):
    """`propose` with these rules, and changes of them."""
    return partial(propose, level_sizes=level_sizes, coding=coding, config=dataclasses.replace(config, **options))


def proposals(*rules, **options):
    return lambda *arrays: ranked(*rules, **options)(*arrays).proposals()


per_level, jointly = (jax.jit(proposals(per_level=p)) for p in (True, False))


def some_outputs(seed):
    rng = np.random.default_rng(seed)
    return np.float32(rng.normal(size=75)), np.float32(0.4 * rng.normal(size=(75, 4)))


def best(found):
    valid = np.asarray(found.valid)
    return np.asarray(found.boxes)[valid], np.asarray(found.scores)[valid]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("run", "sizes"), [(per_level, SIZES), (jointly, (75,))], ids=["per level", "jointly"])
def test_equals_the_oracle(run, sizes, seed):
    logits, deltas = some_outputs(seed)
    boxes, scores = oracles.propose(
        logits, deltas, np.asarray(ANCHORS), np.asarray(WINDOW), sizes, 25, 20, 0.5, 2.0, (1, 1, 1, 1), MAX_LOG_SCALE
    )
    ours = run(logits, deltas, ANCHORS, WINDOW)
    np.testing.assert_allclose(best(ours)[1], scores, rtol=1e-6)
    np.testing.assert_allclose(best(ours)[0], boxes, atol=1e-4)


@pytest.mark.parametrize("run", [per_level, jointly], ids=["per level", "jointly"])
def test_what_was_there_before_the_suppression(run):
    """Each box is its anchor moved, the kept ones are the proposals, and every other overlaps a better one of those."""
    logits, deltas = some_outputs(3)
    rule = ranked(per_level=run is per_level, after_nms=(50, 50))
    candidates = jax.jit(rule)(logits, deltas, ANCHORS, WINDOW)
    moved = oracles.decode_boxes(deltas, np.asarray(ANCHORS), (1, 1, 1, 1), MAX_LOG_SCALE)
    expected = oracles.clip_boxes(moved, np.asarray(WINDOW))[candidates.anchor]
    np.testing.assert_allclose(candidates.boxes, expected, atol=1e-4)
    np.testing.assert_array_equal(candidates.scores, logits[candidates.anchor])
    np.testing.assert_array_equal(candidates.valid, (expected[:, 2:] - expected[:, :2] >= 2).all(1))

    kept = np.asarray(candidates.selected)[np.asarray(candidates.filled)]
    found = run(logits, deltas, ANCHORS, WINDOW)
    count = int(found.valid.sum())
    np.testing.assert_array_equal(candidates.boxes[kept[:count]], best(found)[0])
    level = np.asarray(candidates.anchor) >= SIZES[0] if run is per_level else np.zeros(len(candidates.anchor))
    for other in sorted(set(np.flatnonzero(candidates.valid)) - set(kept.tolist())):
        better = kept[(candidates.scores[kept] > candidates.scores[other]) & (level[kept] == level[other])]
        assert oracles.box_iou(expected[other][None], expected[better]).max() > 0.5


@given(st.integers(0, 10_000), st.floats(0.1, 30))
def test_inside_the_window_and_best_first(seed, spread):
    logits, deltas = some_outputs(seed)
    for run in (per_level, jointly):
        boxes, scores = best(run(logits, deltas * np.float32(spread), ANCHORS, WINDOW))
        assert (np.diff(scores) <= 0).all()
        assert (boxes[:, :2] >= WINDOW[:2]).all()
        assert (boxes[:, 2:] <= WINDOW[2:]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 2 - 1e-4).all()


def test_more_slots_than_anchors_and_nothing_left():
    for joint in (True, False):
        run = jax.jit(proposals(per_level=joint, after_nms=(90, 90), nms_iou=0.999))
        few = run(jnp.zeros(75), jnp.zeros((75, 4)), ANCHORS, WINDOW)
        assert few.boxes.shape == (90, 4)
        assert 0 < few.valid.sum() <= 50
        none = run(jnp.zeros(75), jnp.zeros((75, 4)), ANCHORS, jnp.zeros(4))
        assert not none.valid.any()
        assert np.isfinite(none.boxes).all()


def test_jit_changes_nothing_one_trace_finite_gradients():
    some, others = (*some_outputs(9), ANCHORS, WINDOW), (*some_outputs(10), ANCHORS + 1, WINDOW * 0.5)
    assert_jit_changes_nothing(proposals(), some, others, rtol=1e-6, atol=1e-4)
    assert_finite_gradients(lambda logits, deltas: proposals()(logits, deltas, ANCHORS, WINDOW), some[0], 50 * some[1])


def test_probabilities_rank_as_logits_until_they_saturate():
    logits, deltas = some_outputs(9)
    by_logit = per_level(logits, deltas, ANCHORS, WINDOW)
    by_probability = jax.jit(proposals(score="probability"))(logits, deltas, ANCHORS, WINDOW)
    np.testing.assert_allclose(best(by_logit)[0], best(by_probability)[0], atol=1e-4)
    np.testing.assert_allclose(by_probability.scores, jax.nn.sigmoid(by_logit.scores), rtol=1e-6)


def test_torchvision():
    """1000 proposals of 20,460 anchors: ranked per level by logit, suppressed by probability, clipped to 310x250."""
    g = recorded.load("torchvision_boxes")
    config = MaskRCNNConfig.torchvision_coco()
    a, rpn = config.anchors, config.rpn
    anchors = pyramid_anchors((256, 320), strides=a.strides, sizes=a.sizes, ratios=a.ratios, rounded=a.rounded)
    run = proposals((15360, 3840, 960, 240, 60), rpn.coding, rpn.proposals)
    ours = jax.jit(run)(
        np.random.RandomState(33).standard_normal((20460, 1))[:, 0].astype(np.float32),
        (0.3 * np.random.RandomState(34).standard_normal((20460, 4))).astype(np.float32),
        anchors,
        np.float32([0, 0, 310, 250]),
    )
    assert ours.valid.all()
    np.testing.assert_allclose(ours.scores, g["rpnprop.scores"], atol=1e-6)
    np.testing.assert_allclose(ours.boxes, g["rpnprop.boxes"], atol=2e-4)


def test_matterport():
    """Its ProposalLayer works on boxes normalised to [0, 1]; so does this, IoU and deltas being free of scale."""
    g = recorded.load("matterport_boxes")
    probability = g["pl_probs"][0, :, 1].astype(np.float64)
    run = proposals((240,), BoxCoding(), ProposalConfig(before_nms=(150, 150), after_nms=(80, 80)))
    ours = jax.jit(run)(
        np.float32(np.log(probability) - np.log1p(-probability)),
        recorded.xyxy(g["pl_deltas"][0]),
        recorded.xyxy(g["pl_anchors"]),
        np.float32([0, 0, 1, 1]),
    )
    expected = recorded.xyxy(g["pl_out"][0])
    filled = expected.any(1)
    np.testing.assert_array_equal(ours.valid, filled)
    np.testing.assert_allclose(np.asarray(ours.boxes)[filled], expected[filled], atol=1e-5)
