import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from maskrcnn_jax.config import BoxCoding, MaskRCNNConfig, RPNTargetConfig
from maskrcnn_jax.rpn import targets
from maskrcnn_jax.rpn.anchors import pyramid_anchors
from tests import oracles, recorded, strategies
from tests.small import one_truth
from tests.traced import assert_jit_changes_nothing

G, S = 3, 16
# Sides of whole pixels: with boxes on eighths float32 measures every area exactly, so that ties are ties for everyone.
ANCHORS = jnp.asarray(pyramid_anchors((32, 40), strides=(8, 16), sizes=(10, 20), ratios=(0.25, 1.0, 4.0)))
RULE = RPNTargetConfig(samples=S, max_positive=6)
label_anchors = jax.jit(partial(targets.label_anchors, config=RULE))
rpn_targets = jax.jit(partial(targets.rpn_targets, config=RULE, coding=BoxCoding()))
truths = strategies.boxes(G, limit=30, least_side=2, most_side=30)


@given(truths, strategies.flags(G), strategies.flags(G))
def test_labels_equal_the_oracle(boxes, valid, crowd):
    index, label = oracles.rpn_labels(np.asarray(ANCHORS), boxes, valid, crowd, *np.float32([0.7, 0.3, 0.001]))
    ours = label_anchors(ANCHORS, one_truth(boxes, valid, crowd))
    np.testing.assert_array_equal(ours.label, label)
    np.testing.assert_array_equal(np.asarray(ours.gt_index)[label == 1], index[label == 1])


@given(truths, strategies.flags(G), strategies.flags(G))
def test_what_is_drawn_fits_its_label(boxes, valid, crowd):
    labels = label_anchors(ANCHORS, one_truth(boxes, valid, crowd))
    drawn = rpn_targets(jax.random.key(0), ANCHORS, one_truth(boxes, valid, crowd))
    kind = np.asarray(labels.label)[np.asarray(drawn.indices)]
    assert (kind[np.asarray(drawn.positive)] == 1).all()
    assert (kind[np.asarray(drawn.valid & ~drawn.positive)] == 0).all()
    assert drawn.positive.sum() == min((labels.label == 1).sum(), 6)
    which = np.asarray(drawn.positive)
    expected = oracles.encode_boxes(
        boxes[np.asarray(labels.gt_index)[np.asarray(drawn.indices)]][which],
        np.asarray(ANCHORS)[np.asarray(drawn.indices)][which],
        (10, 10, 5, 5),
    )
    np.testing.assert_allclose(np.asarray(drawn.deltas)[which], expected, atol=1e-4)
    assert np.isfinite(drawn.deltas).all()


@given(truths, strategies.flags(G), strategies.boxes(G, limit=1000))
def test_padded_slots_change_nothing(boxes, valid, garbage):
    crowd = np.zeros(G, bool)
    other = np.where(valid[:, None], boxes, garbage)
    a = rpn_targets(jax.random.key(0), ANCHORS, one_truth(boxes, valid, crowd))
    b = rpn_targets(jax.random.key(0), ANCHORS, one_truth(other, valid, crowd | ~valid))
    for name in ("indices", "positive", "valid"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.deltas[a.positive], b.deltas[b.positive])
    assert np.isfinite(b.deltas).all()


@given(truths, strategies.permutations(G))
def test_order_of_objects_does_not_matter(boxes, order):
    a = rpn_targets(jax.random.key(0), ANCHORS, one_truth(boxes))
    b = rpn_targets(jax.random.key(0), ANCHORS, one_truth(boxes[order]))
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.positive, b.positive)


def test_no_objects():
    for g in (0, 2):
        drawn = rpn_targets(jax.random.key(1), ANCHORS, one_truth(np.zeros((g, 4)), np.zeros(g, bool)))
        assert drawn.valid.all()
        assert not drawn.positive.any()
        assert np.isfinite(drawn.deltas).all()
    crowd = rpn_targets(jax.random.key(1), ANCHORS, one_truth([[-99.0, -99, 199, 199]], crowd=[True]))
    assert not crowd.valid.any()  # all anchors lie in the crowd, and have an IoU of 0.001 or more with it


def test_without_a_crowd_its_limit_matters_nothing():
    """At a limit of 0 every IoU with a crowd reaches it, but there is none."""
    rule = dataclasses.replace(RULE, crowd_iou=0.0)
    truth = one_truth([[4.0, 4, 14, 14]])
    np.testing.assert_array_equal(
        targets.label_anchors(ANCHORS, truth, config=rule).label, label_anchors(ANCHORS, truth).label
    )


def test_jit_changes_nothing_and_one_trace_serves_all():
    boxes = np.float32([[3, 4, 20, 19], [11, 9, 37, 30], [0, 0, 0, 0]])
    assert_jit_changes_nothing(
        partial(targets.rpn_targets, config=RULE, coding=BoxCoding()),
        (jax.random.key(0), ANCHORS, one_truth(boxes, boxes.any(1))),
        (jax.random.key(1), ANCHORS, one_truth(boxes[::-1], np.zeros(3, bool), boxes[::-1].any(1))),
        atol=1e-5,
    )


@pytest.mark.parametrize("case", ["crowd", "nocrowd"])
def test_matterport(case):
    """All labels of `build_rpn_targets` before sampling, and its deltas. Its labels -1 and 0 are 0 and -1 here."""
    g = recorded.load("matterport_targets")
    a = MaskRCNNConfig.matterport_coco().anchors
    anchors = jnp.asarray(pyramid_anchors((256, 256), strides=a.strides, sizes=a.sizes, ratios=a.ratios))
    boxes = jnp.asarray(recorded.xyxy(g["rpnt_gt_boxes"]).astype(np.float32))
    is_crowd = jnp.asarray(g["rpnt_gt_class_ids"] < 0)
    valid = jnp.ones(4, bool) if case == "crowd" else ~is_crowd
    truth = one_truth(boxes, valid, is_crowd)
    matches = label_anchors(anchors, truth)
    label = np.asarray(matches.label)
    np.testing.assert_array_equal(np.flatnonzero(label == 1), g[f"rpnt_{case}_positive"])
    np.testing.assert_array_equal(np.flatnonzero(label == -1), g[f"rpnt_{case}_ignored"])
    run = jax.jit(partial(targets.rpn_targets, config=RPNTargetConfig(), coding=BoxCoding()))
    drawn = run(jax.random.key(0), anchors, truth)
    order = np.argsort(drawn.indices[:8])
    np.testing.assert_array_equal(drawn.indices[:8][order], g[f"rpnt_{case}_positive"])
    np.testing.assert_allclose(drawn.deltas[:8][order], recorded.xyxy(g[f"rpnt_{case}_deltas"]), rtol=1e-6)


def test_torchvision():
    """20,460 anchors, five objects: labels before sampling, and the deltas of the positives."""
    g = recorded.load("torchvision_losses")
    a = MaskRCNNConfig.torchvision_coco().anchors
    anchors = jnp.asarray(
        pyramid_anchors((256, 320), strides=a.strides, sizes=a.sizes, ratios=a.ratios, rounded=a.rounded)
    )
    truth = one_truth(g["rpnloss.gt"])
    label = np.asarray(label_anchors(anchors, truth).label)
    np.testing.assert_array_equal(np.flatnonzero(label == 1), g["rpnloss.positive"])
    np.testing.assert_array_equal(np.flatnonzero(label == -1), g["rpnloss.ignored"])
    config = MaskRCNNConfig.torchvision_coco().rpn
    run = jax.jit(partial(targets.rpn_targets, config=config.targets, coding=config.coding))
    drawn = run(jax.random.key(0), anchors, truth)
    order = np.argsort(drawn.indices[:20])
    np.testing.assert_array_equal(drawn.indices[:20][order], g["rpnloss.pos_idx"])
    np.testing.assert_allclose(drawn.deltas[:20][order], g["rpnloss.pos_targets"], rtol=1e-6)
