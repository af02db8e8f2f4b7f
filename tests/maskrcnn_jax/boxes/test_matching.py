from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from maskrcnn_jax.boxes import matching
from tests import oracles, recorded, strategies
from tests.traced import assert_jit_changes_nothing, default_jit

RULES = {"rpn": (0.7, 0.3, True), "roi": (0.5, 0.5, False), "plain": (0.7, 0.3, False)}
G, N = 4, 15


@partial(default_jit, static_argnames="rule")
def match(table, gt_valid=None, *, rule):
    positive, negative, low = RULES[rule]
    return matching.match(table, positive_iou=positive, negative_iou=negative, allow_low_quality=low, gt_valid=gt_valid)


def test_by_hand():
    """Two objects, four candidates. The second object's best is 0.4, twice; the third candidate is between."""
    table = jnp.array([[0.8, 0.3, 0.0, 0.1], [0.0, 0.4, 0.4, 0.2]])
    assert match(table, rule="plain").label.tolist() == [1, -1, -1, 0]
    assert match(table, rule="rpn").label.tolist() == [1, 1, 1, 0]
    assert match(table, rule="roi").label.tolist() == [1, 0, 0, 0]
    assert match(table, rule="roi").gt_index.tolist() == [0, 1, 1, 1]


def test_a_claimed_candidate_answers_for_the_object_it_overlaps_most():
    table = jnp.array([[0.9, 0.0], [0.2, 0.1]])  # object 1 claims candidate 0, which is object 0's
    matches = match(table, rule="rpn")
    assert matches.label.tolist() == [1, 0]
    assert matches.gt_index.tolist() == [0, 1]


@pytest.mark.parametrize("rule", RULES)
@given(table=strategies.iou_tables(G, N), gt_valid=strategies.flags(G))
def test_equals_the_oracle(rule, table, gt_valid):
    index, label = oracles.match_table(table, *map(np.float32, RULES[rule][:2]), RULES[rule][2], gt_valid)
    matches = match(table, gt_valid, rule=rule)
    np.testing.assert_array_equal(matches.label, label)
    np.testing.assert_array_equal(np.asarray(matches.gt_index)[label == 1], index[label == 1])


@given(table=strategies.iou_tables(G, N), order=strategies.permutations(G), columns=strategies.permutations(N))
def test_permuting_permutes(table, order, columns):
    matches, permuted = match(table, rule="rpn"), match(table[order], rule="rpn")
    np.testing.assert_array_equal(matches.label, permuted.label)
    best = np.take_along_axis(table, np.asarray(matches.gt_index)[None], 0)
    np.testing.assert_array_equal(best, np.take_along_axis(table[order], np.asarray(permuted.gt_index)[None], 0))
    np.testing.assert_array_equal(match(table[:, columns], rule="rpn").label, np.asarray(matches.label)[columns])


@given(table=strategies.iou_tables(G, N), gt_valid=strategies.flags(G))
def test_padded_ground_truth_changes_nothing(table, gt_valid):
    for garbage in (0.0, 1.0, np.nan, np.inf):
        other = np.where(gt_valid[:, None], table, np.float32(garbage))
        for a, b in zip(match(table, gt_valid, rule="rpn"), match(other, gt_valid, rule="rpn"), strict=True):
            np.testing.assert_array_equal(a, b)


def test_degenerate():
    nothing = match(jnp.zeros((0, 5)), rule="rpn")
    assert nothing.label.tolist() == [0] * 5
    assert match(jnp.ones((3, 5)), jnp.zeros(3, bool), rule="rpn").label.tolist() == [0] * 5
    assert match(jnp.zeros((2, 5)), rule="rpn").label.tolist() == [0] * 5  # an IoU of 0 claims nothing
    assert match(jnp.zeros((2, 0)), rule="rpn").label.shape == (0,)
    table = jnp.array([[jnp.nan, 0.9, 0.2], [0.4, jnp.nan, jnp.nan]])  # NaN is no overlap
    assert match(table, rule="rpn").label.tolist() == [1, 1, 0]
    assert match(table, rule="rpn").gt_index.tolist() == [1, 0, 0]
    assert match(jnp.full((2, 3), 0.7), rule="plain").label.tolist() == [1] * 3  # the threshold itself is positive
    assert match(jnp.full((2, 3), 0.3), rule="plain").label.tolist() == [-1] * 3  # and the lower one not negative


def test_jit_changes_nothing_and_one_trace_serves_all():
    tables = np.random.default_rng(0).uniform(size=(2, G, N)).astype(np.float32)
    rule = dict(positive_iou=0.7, negative_iou=0.3, allow_low_quality=True)
    assert_jit_changes_nothing(
        lambda table, gt_valid: matching.match(table, **rule, gt_valid=gt_valid),
        (tables[0], np.arange(G) < 3),
        (tables[1], np.arange(G) < 0),
    )


def test_torchvision():
    """It marks ignored -2 and negative -1, and gives the index of the ground truth for positives."""
    g = recorded.load("torchvision_boxes")
    for rule, key in (("roi", "roi_0.5_0.5"), ("plain", "0.7_0.3_nolowq")):
        expected = g[f"match.{key}"]
        matches = match(g["match.iou"], rule=rule)
        np.testing.assert_array_equal(matches.label, np.select([expected >= 0, expected == -1], [1, 0], -1))
        np.testing.assert_array_equal(np.asarray(matches.gt_index)[expected >= 0], expected[expected >= 0])


def test_an_object_that_no_candidate_touches():
    """torchvision lets it claim every candidate, all tied at its best IoU of 0; here it claims none. Its labels with
    low-quality matches on objects that are touched: `rpn/test_targets.py`.
    """
    g = recorded.load("torchvision_boxes")
    table, theirs = g["match.iou"], g["match.rpn_0.7_0.3_lowq"]
    assert not table[5].any()
    assert (theirs >= 0).all()
    ours = match(table, rule="rpn")
    np.testing.assert_array_equal(ours.gt_index, theirs)
    np.testing.assert_array_equal(ours.label, match(table[:5], rule="rpn").label)
    best = table[:5].max(1, keepdims=True)
    expected = (table.max(0) >= 0.7) | (table[:5] == best).any(0)
    np.testing.assert_array_equal(ours.label == 1, expected)
