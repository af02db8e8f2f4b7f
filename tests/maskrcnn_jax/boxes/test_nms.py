import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.boxes.nms import nms
from tests import oracles, recorded, strategies
from tests.traced import assert_jit_changes_nothing, default_jit

N = 24
optimised = default_jit(nms, static_argnames="max_outputs")


def survivors(boxes, scores, threshold, slots=None, **options):
    indices, filled = optimised(
        boxes, scores, iou_threshold=np.float32(threshold), max_outputs=slots or len(boxes), **options
    )
    assert (np.asarray(filled) == np.sort(filled)[::-1]).all(), "filled slots come first"
    return np.asarray(indices)[np.asarray(filled)].tolist()


def test_by_hand():
    """0 and 1 share 9/11, 1 and 2 8/12; 1 falls to 0, so 2, which only 1 would have suppressed at 0.5, lives."""
    boxes = jnp.array([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [3.0, 0.0, 13.0, 10.0]])
    scores = jnp.array([0.9, 0.8, 0.7])
    assert survivors(boxes, scores, 0.6) == [0, 2]
    assert survivors(boxes, scores[::-1], 0.6) == [2, 0]
    assert survivors(boxes, scores, 0.9) == [0, 1, 2]
    assert survivors(boxes, scores, 0.5) == [0]


def test_an_overlap_of_exactly_the_threshold_survives():
    boxes = jnp.array([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 2.0, 1.0]])  # the second is half of the first
    assert survivors(boxes, jnp.array([1.0, 0.5]), 0.5) == [0, 1]
    assert survivors(boxes, jnp.array([1.0, 0.5]), 0.499) == [0]


def test_ties_go_to_the_lower_index():
    boxes = jnp.tile(jnp.array([[0.0, 0.0, 4.0, 4.0]]), (5, 1)) + 20.0 * jnp.array([[0], [1], [0], [1], [2]])
    assert survivors(boxes, jnp.full(5, 0.5), 0.5) == [0, 1, 4]
    assert survivors(boxes, jnp.array([0.0, -0.0, 0.0, 0.0, -0.0]), 0.5) == [0, 1, 4]


crowded = strategies.boxes(N, limit=20, most_side=25)


@given(crowded, strategies.scores(N), strategies.flags(N), st.sampled_from([0.0, 0.3, 0.5, 0.75]))
def test_equals_the_oracle(boxes, scores, valid, threshold):
    expected = oracles.greedy_nms(boxes, scores, threshold, valid)
    assert survivors(boxes, scores, threshold, valid=valid) == expected
    assert survivors(boxes, scores, threshold, 5, valid=valid) == expected[:5]


@given(crowded, strategies.scores(N), st.lists(st.integers(-1, 2), min_size=N, max_size=N).map(np.int32))
def test_only_equal_groups_suppress(boxes, scores, groups):
    kept = survivors(boxes, scores, 0.3, groups=groups)
    assert kept == oracles.greedy_nms(boxes, scores, 0.3, groups=groups)
    apart = [survivors(boxes, scores, 0.3, valid=groups == g) for g in range(-1, 3)]
    assert sorted(kept) == sorted(index for part in apart for index in part)


@given(crowded, strategies.scores(N))
def test_idempotent(boxes, scores):
    kept = survivors(boxes, scores, 0.5)
    alone = np.isin(np.arange(N), kept)
    assert survivors(boxes, scores, 0.5, valid=alone) == kept


@given(crowded, strategies.permutations(N), strategies.permutations(N))
def test_order_of_rows_does_not_matter(boxes, ranking, order):
    scores = ranking.astype(np.float32)  # all different
    kept = survivors(boxes, scores, 0.5)
    assert order[survivors(boxes[order], scores[order], 0.5)].tolist() == kept


@given(crowded, strategies.scores(N), strategies.flags(N), st.sampled_from([np.nan, np.inf, 7.0, -1e30]))
def test_rows_that_are_not_valid_change_nothing(boxes, scores, valid, garbage):
    other_boxes, other_scores = boxes.copy(), scores.copy()
    other_boxes[~valid] = garbage
    other_scores[~valid] = garbage
    assert survivors(boxes, scores, 0.5, valid=valid) == survivors(other_boxes, other_scores, 0.5, valid=valid)


def test_a_chain_of_suppressions_is_followed_to_its_end():
    """Each box overlaps only its neighbours: every second one survives, however long the chain."""
    left = np.arange(301, dtype=np.float32) * 4
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], 1)
    kept = survivors(boxes, -left, 0.4)
    assert kept == list(range(0, 301, 2))


def test_degenerate():
    assert survivors(jnp.zeros((3, 4)), jnp.array([0.1, 0.3, 0.2]), 0.5) == [1, 2, 0]  # no area overlaps nothing
    indices, filled = nms(jnp.zeros((0, 4)), jnp.zeros(0), iou_threshold=0.5, max_outputs=3)
    assert indices.shape == (3,)
    assert not filled.any()
    boxes = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], [9.0, 9.0, 10.0, 10.0]])
    scores = jnp.array([-jnp.inf, jnp.nan, jnp.inf])
    assert survivors(boxes, scores, 0.5) == [2, 0]
    assert survivors(boxes, scores, 0.5, valid=jnp.zeros(3, bool)) == []
    assert survivors(boxes, scores, 0.5, 7) == [2, 0]
    assert survivors(boxes.at[2, 3].set(jnp.nan), jnp.zeros(3), 0.5) == [0]
    assert nms(boxes, scores, iou_threshold=0.5, max_outputs=0)[0].shape == (0,)


def test_jit_and_vmap_change_nothing_and_one_trace_serves_all():
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 20, (3, N, 2))
    boxes = np.float32(np.concatenate([corner, corner + rng.uniform(0, 20, (3, N, 2))], -1))
    cases = boxes, np.float32(rng.uniform(size=(3, N))), rng.random((3, N)) < 0.8, rng.integers(0, 3, (3, N))

    def kept(boxes, scores, valid, groups):
        return nms(boxes, scores, iou_threshold=0.4, max_outputs=9, valid=valid, groups=groups)

    assert_jit_changes_nothing(kept, *zip(*cases, strict=True))
    batched, _ = default_jit(jax.vmap(kept))(*cases)
    for i, case in enumerate(zip(*cases, strict=True)):
        assert batched[i].tolist() == kept(*map(jnp.asarray, case))[0].tolist()


@pytest.mark.parametrize("kind", ["all different", "ties, groups and boxes of no area"])
def test_five_thousand_boxes(kind):
    rng = np.random.default_rng(2)
    corner = rng.uniform(0, 900, (5000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 120, (5000, 2))], 1).astype(np.float32)
    scores, groups = rng.permutation(5000).astype(np.float32), np.zeros(5000, np.int32)
    if kind != "all different":
        scores, groups = np.floor(scores / 50), rng.integers(0, 4, 5000)
        boxes[::7, 2] = boxes[::7, 0]
    # The oracle, a row at a time rather than a pair at a time.
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    order, expected = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        expected.append(int(best))
        w = np.minimum(x2[best], x2[order]) - np.maximum(x1[best], x1[order])
        h = np.minimum(y2[best], y2[order]) - np.maximum(y1[best], y1[order])
        shared = np.maximum(w, 0) * np.maximum(h, 0)
        union = np.maximum(areas[best] + areas[order] - shared, np.float32(1e-9))  # two boxes of no area share none
        order = order[(shared / union <= 0.5) | (groups[order] != groups[best])]
    assert survivors(boxes, scores, 0.5, groups=groups) == expected
    assert 1000 < len(expected) < 4600


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_torchvision(threshold):
    g = recorded.load("torchvision_boxes")
    assert survivors(g["nms.boxes"], g["nms.scores"], threshold) == g[f"nms.keep{threshold}"].tolist()
    grouped = survivors(g["nms.boxes"], g["nms.scores"], threshold, groups=g["nms.classes"].astype(np.int32))
    assert grouped == g[f"nms.batched_keep{threshold}"].tolist()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_tensorflow(threshold):
    """Row 8 is row 9 flipped: TensorFlow turns it round, while here it has no area, suppresses nothing and is kept. Of
    rows 20 and 21 with equal scores TensorFlow takes 21 first. With 8 turned round and 21 just ahead, all 40 agree.
    """
    g = recorded.load("matterport_boxes")
    boxes, scores = recorded.xyxy(g["nms_boxes"]), g["nms_scores"].copy()
    assert scores[20] == scores[21]
    scores[21] = np.nextafter(scores[21], np.float32(2))
    turned = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    expected = g[f"nms_keep_{round(threshold * 10):02d}"].tolist()
    assert survivors(turned, scores, threshold, 40) == expected
    ours = survivors(boxes, g["nms_scores"], threshold, 40)
    assert ours == oracles.greedy_nms(boxes, g["nms_scores"], threshold)[:40]
