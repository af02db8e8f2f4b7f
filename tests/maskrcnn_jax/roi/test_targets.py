import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.config import BoxCoding, MaskRCNNConfig, RoITargetConfig, Sampling
from maskrcnn_jax.roi import targets
from maskrcnn_jax.structures import Proposals
from tests import oracles, recorded, strategies
from tests.small import one_truth
from tests.traced import assert_jit_changes_nothing

G, P, S, Q, M = 3, 20, 16, 6, 8
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BINS, CORNERS = Sampling(sampling_ratio=0), Sampling("corners")
RULE = RoITargetConfig(samples=S, max_positive=Q, mask_sampling=BINS, binary_masks=False)


def drawn(mask_size=M, far_edge=0, **options):
    """`roi_targets` by RULE, or changes of it, of plain arrays."""
    config = dataclasses.replace(RULE, **options)
    rule = dict(config=config, coding=BoxCoding(WEIGHTS), mask_size=mask_size, far_edge=far_edge)

    def run(key, boxes, valid, gt_boxes, classes, masks, gt_valid, crowd):
        proposals = Proposals(boxes, jnp.zeros(len(boxes)), valid)
        return targets.roi_targets(key, proposals, one_truth(gt_boxes, gt_valid, crowd, classes, masks), **rule)

    return run


draw, draw_with_truth = jax.jit(drawn()), jax.jit(drawn(truth_copies=2, truth_jitter=0.1))
CLASSES = np.int32([2, 1, 3])
MASKS = np.random.default_rng(0).integers(0, 2, (G, M, M)).astype(np.uint8)
KEY = jax.random.key(0)


def some_proposals(boxes, seed):
    """Twenty: each ground truth moved a little, a few times, and random ones. The last is not valid."""
    rng = np.random.default_rng(seed)
    near = np.tile(boxes, (4, 1)) + rng.uniform(-2, 2, (12, 4))
    corner = rng.uniform(0, 60, (8, 2))
    return np.float32(np.concatenate([near, np.concatenate([corner, corner + rng.uniform(4, 30, (8, 2))], 1)]))


truths = strategies.boxes(G, limit=40, least_side=6, most_side=30)
VALID = np.arange(P) < P - 1


@given(truths, strategies.flags(G), strategies.flags(G), st.integers(0, 1000))
def test_equals_the_oracle(boxes, valid, crowd, seed):
    """Every drawn RoI is checked against the definition: its class, deltas, and which kinds are drawn how often."""
    proposals = some_proposals(boxes, seed)
    ours = jax.tree.map(np.asarray, draw(KEY, proposals, VALID, boxes, CLASSES, MASKS, valid, crowd))
    table = oracles.box_iou(boxes, proposals)
    best, label = oracles.match_table(table, 0.5, 0.5, False, valid & ~crowd)
    in_crowd = (table * (valid & crowd)[:, None]).max(0) >= 0.001
    label[~VALID | (in_crowd & (label == 0))] = -1
    positives, negatives = min((label == 1).sum(), Q), (label == 0).sum()
    assert ours.positive.tolist() == [s < positives for s in range(S)]
    assert ours.valid.tolist() == [s < positives + negatives for s in range(S)]
    for s in np.flatnonzero(ours.valid):
        p = np.flatnonzero((proposals == ours.boxes[s]).all(1))[0]
        assert label[p] == ours.positive[s]
        if ours.positive[s]:
            assert ours.classes[s] == CLASSES[best[p]]
            expected = oracles.encode_boxes(boxes[best[p]][None], proposals[p][None], WEIGHTS)[0]
            np.testing.assert_allclose(ours.deltas[s], expected, atol=1e-4)
            corner, side = (np.tile(v, 2) for v in (boxes[best[p]][:2], boxes[best[p]][2:] - boxes[best[p]][:2]))
            relative = (proposals[p] - corner) / side * M
            mask = oracles.roi_align(MASKS[best[p]][..., None], relative[None], M, 1.0, 0, True)[0, ..., 0]
            np.testing.assert_allclose(ours.masks[s], mask, atol=5e-5)
    rest = ~ours.positive
    assert not ours.classes[rest].any()
    assert not ours.deltas[rest].any()
    assert not ours.masks[rest[:Q]].any()
    assert not ours.boxes[~ours.valid].any()


@given(truths, strategies.flags(G), strategies.boxes(G, limit=1000), st.integers(0, 1000))
def test_padded_slots_change_nothing(boxes, valid, garbage, seed):
    proposals, no_crowd = some_proposals(boxes, seed), np.zeros(G, bool)
    other = np.where(valid[:, None], boxes, garbage)
    masks, classes = np.where(valid[:, None, None], MASKS, 9).astype(np.uint8), np.where(valid, CLASSES, 99)
    strange = np.where(VALID[:, None], proposals, np.float32(-5e5))
    for run in (draw, draw_with_truth):
        a = run(KEY, proposals, VALID, boxes, CLASSES, MASKS, valid, no_crowd)
        b = run(KEY, strange, VALID, other, classes, masks, valid, no_crowd | ~valid)
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@given(truths, strategies.permutations(G), st.integers(0, 1000))
def test_order_of_objects_does_not_matter(boxes, order, seed):
    proposals, all_valid, no_crowd = some_proposals(boxes, seed), np.ones(G, bool), np.zeros(G, bool)
    table = oracles.box_iou(boxes, proposals)
    if (
        len(np.unique(np.sort(table, 0)[-2:].round(5), axis=0)) < 2
        or (np.diff(np.sort(table, 0)[-2:], axis=0) < 1e-5).any()
    ):
        return  # two objects equally good for a proposal: then the order decides
    a = draw(KEY, proposals, VALID, boxes, CLASSES, MASKS, all_valid, no_crowd)
    b = draw(KEY, proposals, VALID, boxes[order], CLASSES[order], MASKS[order], all_valid, no_crowd)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_copies_of_the_truth_join_the_proposals():
    """Proposals far away: the only positives are the two jittered copies of each object, never a crowd's."""
    boxes = np.float32([[5, 5, 25, 25], [40, 10, 60, 30], [70, 70, 90, 90]])
    far = np.tile(np.float32([[200, 200, 220, 220]]), (P, 1))
    valid, crowd = np.array([True, True, True]), np.array([False, False, True])
    ours = draw_with_truth(KEY, far, VALID, boxes, CLASSES, MASKS, valid, crowd)
    assert ours.positive.sum() == 4
    assert sorted(ours.classes[:4].tolist()) == [1, 1, 2, 2]
    for s in range(4):
        original = boxes[CLASSES.tolist().index(int(ours.classes[s]))]
        moved = np.abs(np.asarray(ours.boxes[s]) - original)
        assert 0 < moved.max() <= 2  # up to a tenth of 20
    exact = targets.jittered_copies(KEY, jnp.asarray(boxes), copies=2, jitter=0.0)
    np.testing.assert_array_equal(exact, np.repeat(boxes, 2, axis=0))


def test_more_positives_than_slots_and_no_objects():
    boxes = np.float32([[5, 5, 25, 25], [40, 10, 60, 30], [70, 70, 90, 90]])
    nothing = np.zeros(G, bool)
    many = draw(KEY, np.tile(boxes[:1], (P, 1)), VALID, boxes, CLASSES, MASKS, ~nothing, nothing)
    assert many.positive.sum() == Q
    assert many.valid.sum() == Q  # and no negatives exist
    for run in (draw, draw_with_truth):
        none = run(KEY, np.tile(boxes[:1], (P, 1)), VALID, boxes, CLASSES, MASKS, nothing, nothing)
        assert not none.positive.any()
        assert none.valid.all()
        assert all(np.isfinite(leaf).all() for leaf in none)
    at_zero = jax.jit(drawn(crowd_iou=0.0))
    none = at_zero(KEY, np.tile(boxes[:1], (P, 1)), VALID, boxes, CLASSES, MASKS, nothing, nothing)
    assert none.valid.all(), "no crowd, so no RoI lies in one"
    empty = draw(KEY, np.zeros((P, 4), np.float32), np.zeros(P, bool), boxes, CLASSES, MASKS, ~nothing, nothing)
    assert not empty.valid.any()


def test_jit_changes_nothing_and_one_trace_serves_all():
    boxes = np.float32([[5, 5, 25, 25], [40, 10, 60, 30], [70, 70, 90, 90]])
    nothing = np.zeros(G, bool)
    assert_jit_changes_nothing(
        drawn(),
        (KEY, some_proposals(boxes, 1), VALID, boxes, CLASSES, MASKS, ~nothing, nothing),
        (KEY, some_proposals(boxes, 2), ~VALID, boxes[::-1], CLASSES, 1 - MASKS, nothing, nothing),
        atol=1e-5,
    )


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [BINS, CORNERS], ids=lambda s: s.kind)
def test_mask_by_hand(sampling):
    """The RoI is the right half of an object whose right half is outside; then the object's own box."""
    mask = jnp.zeros((1, 4, 4), jnp.uint8).at[0, :, :2].set(1)
    frame = jnp.array([[10.0, 10.0, 18.0, 18.0]])
    boxes = jnp.array([[14.5, 10.0, 18.0, 18.0], [10.0, 10.0, 18.0, 18.0], [30.0, 30.0, 38.0, 38.0]])
    crop = jax.jit(partial(targets.mask_targets, size=4, sampling=sampling, binary=True))
    ours = crop(boxes, jnp.zeros(3, jnp.int32), mask, frame)
    assert not ours[0, :, 1:].any()
    np.testing.assert_array_equal(ours[1], mask[0])
    assert not ours[2].any()


def test_binary_rounds_and_fractions_stay():
    mask = jnp.array([[[255.0, 0.0], [0.0, 255.0]]]) / 255
    box = jnp.array([[0.0, 0.0, 8.0, 8.0]])
    soft, hard = (
        jax.jit(partial(targets.mask_targets, size=3, sampling=BINS, binary=binary))(
            box, jnp.zeros(1, jnp.int32), mask, box
        )
        for binary in (False, True)
    )
    assert ((soft > 0) & (soft < 1)).any()
    np.testing.assert_array_equal(hard, soft >= 0.5)


@pytest.mark.parametrize("peer", ["torchvision", "detectron2"])
def test_full_masks_of_torchvision_and_detectron2(peer):
    """Both keep masks of the whole image, 60x80, here filled up to a square. torchvision keeps fractions."""
    g = recorded.load("torchvision_losses")
    masks = jnp.asarray(np.pad(g["mloss.gt_masks"], ((0, 0), (0, 20), (0, 0))))
    is_d2 = peer == "detectron2"
    sampling = Sampling(sampling_ratio=0, aligned=is_d2)
    crop = jax.jit(partial(targets.mask_targets, size=28, sampling=sampling, binary=is_d2))
    frames = np.tile(np.float32([[0, 0, 80, 80]]), (4, 1))
    ours = crop(g["mloss.proposals"], g["mloss.matched"], masks, frames)
    if peer == "torchvision":
        np.testing.assert_allclose(ours, g["mloss.targets"], atol=5e-5)
    else:
        np.testing.assert_array_equal(ours, g["d2.mloss.targets"])


@pytest.mark.parametrize("unit", ["shares", "pixels"])
@pytest.mark.parametrize("case", ["mini", "full"])
def test_matterport(case, unit):
    """DetectionTargetLayer: 12 of 25 drawn RoIs positive. Its boxes are shares of 255 with far edges a pixel inside, so
    pixels need `far_edge = 1`. "mini" masks cover their objects' boxes, "full" ones the image.
    """
    g = recorded.load("matterport_targets")
    scale, edge = (1, 0) if unit == "shares" else (255, 1)
    proposals, truth = (
        recorded.xyxy(g[name]) * np.float32(scale) + np.float32([0, 0, edge, edge])
        for name in ("dt_proposals", "dt_gt_boxes_norm")
    )
    classes = g["dt_gt_class_ids"]
    side, packed = (56, g["minimize_mask_out"]) if case == "mini" else (256, g["minimize_mask_in"])
    masks = np.unpackbits(packed)[: side * side * 4].reshape(side, side, 4).transpose(2, 0, 1)
    rule = dataclasses.asdict(MaskRCNNConfig.matterport_coco().roi.targets) | {"mask_sampling": CORNERS}
    ours = jax.jit(drawn(mask_size=28, far_edge=edge, **rule))(
        KEY, proposals, g["dt_proposals"].any(1), truth, np.abs(classes),
        np.pad(masks, ((0, 2), (0, 0), (0, 0))), classes != 0, classes < 0,
    )  # fmt: skip
    source, positives = g[f"dt_{case}_src"], int(g[f"dt_{case}_npos"])
    assert ours.positive.sum() == positives
    assert ours.valid.sum() == len(source)
    chosen = np.array([np.abs(proposals - box).sum(1).argmin() for box in np.asarray(ours.boxes[: len(source)])])
    order = np.concatenate([np.argsort(chosen[:positives]), positives + np.argsort(chosen[positives:])])
    np.testing.assert_array_equal(chosen[order], source)
    np.testing.assert_array_equal(ours.classes[order], g[f"dt_{case}_class_ids"])
    tolerance = 0 if unit == "shares" else 1e-5  # pixels: float32 rounds boxes of 255 at 1.5e-5
    np.testing.assert_allclose(ours.deltas[order], recorded.xyxy(g[f"dt_{case}_deltas"]), rtol=1e-6, atol=tolerance)
    shape = g[f"dt_{case}_masks_shape"]
    expected = np.unpackbits(g[f"dt_{case}_masks"])[: np.prod(shape)].reshape(shape)
    index = jnp.asarray(oracles.box_iou(truth, np.asarray(ours.boxes[:positives]))[:3].argmax(0))
    frames = truth[:4] - np.float32([0, 0, edge, edge])
    if case == "full":
        frames = np.tile(np.float32([[0, 0, 1, 1]]) * scale, (4, 1))
    boxes = ours.boxes[:positives] - jnp.array([0.0, 0, edge, edge])
    crop = jax.jit(partial(targets.mask_targets, size=28, sampling=CORNERS, binary=True))
    masks_of = crop(boxes, index, masks, frames)
    differing = (np.asarray(masks_of)[order[:positives]] != expected).sum()
    # A sample on the far border may fall outside by an ulp, and an exact half rounds to even there, up here.
    assert differing <= (0 if unit == "shares" and case == "mini" else 4), differing
    if case == "mini":
        np.testing.assert_array_equal(ours.masks[:positives], masks_of)
