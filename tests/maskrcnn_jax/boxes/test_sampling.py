from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskrcnn_jax.boxes.sampling import sample_balanced
from tests.traced import assert_jit_changes_nothing

N, TOTAL, MOST = 20, 8, 3
labels = hnp.arrays(np.int32, N, elements=st.integers(-1, 1))
draw = jax.jit(
    partial(sample_balanced, total=TOTAL, max_positive=MOST), static_argnames=("total", "negatives_per_positive")
)


@given(labels, st.integers(0, 1000))
def test_counts_places_and_no_repeats(label, seed):
    s = draw(jax.random.key(seed), label)
    positives = min((label == 1).sum(), MOST)
    negatives = min((label == 0).sum(), TOTAL - positives)
    assert s.positive.tolist() == [True] * positives + [False] * (TOTAL - positives)
    assert s.valid.tolist() == [True] * (positives + negatives) + [False] * (TOTAL - positives - negatives)
    drawn = np.asarray(s.indices)[np.asarray(s.valid)]
    assert label[drawn].tolist() == [1] * positives + [0] * negatives
    assert len(set(drawn.tolist())) == len(drawn)
    assert s.indices.min() >= 0
    assert s.indices.max() < N


def test_by_hand_nothing_to_choose():
    s = sample_balanced(jax.random.key(3), jnp.array([-1, 1, -1, 0]), total=4, max_positive=2)
    assert s.indices[:2].tolist() == [1, 3]
    assert s.positive.tolist() == [True, False, False, False]
    assert s.valid.tolist() == [True, True, False, False]


def test_uniform():
    """3 of 9 positives, 5 of 10 negatives: each is drawn a third, or a half, of 2000 times."""
    label = np.repeat([1, 0, -1], [9, 10, 1])
    s = jax.vmap(lambda key: draw(key, label))(jax.random.split(jax.random.key(0), 2000))
    share = np.bincount(np.asarray(s.indices).ravel(), minlength=N) / 2000
    np.testing.assert_allclose(share[:9], 1 / 3, atol=0.05)
    np.testing.assert_allclose(share[9:19], 1 / 2, atol=0.05)
    assert share[19] == 0
    assert (draw(jax.random.key(1), label).indices == draw(jax.random.key(1), label).indices).all()


@pytest.mark.parametrize("positives", [0, 1, 2, 3])
def test_negatives_as_a_multiple_of_the_positives(positives):
    """Matterport: int(positives / 0.33) - positives, and nothing without a positive."""
    label = np.array([1] * positives + [0] * (N - positives))
    s = draw(jax.random.key(0), label, total=TOTAL, negatives_per_positive=1 / 0.33 - 1)
    assert s.positive.sum() == positives
    assert s.valid.sum() == min(int(positives / 0.33), TOTAL)


def test_the_multiple_rounds_as_matterport_does():
    """For every number of positives that 200 RoIs allow; theirs is a float32 product."""
    for p in range(67):
        assert int(p * (1 / 0.33 - 1)) == int(np.float32(1 / 0.33) * np.float32(p)) - p


def test_the_multiple_is_that_of_whole_numbers():
    """27 times 1 / 0.3 - 1 is 63, in float32 a little less."""
    label = np.array([1] * 27 + [0] * 100)
    for ratio, negatives in ((1 / 0.3 - 1, 63), (1e30, 73), (float("inf"), 73), (0, 0)):
        s = sample_balanced(jax.random.key(0), label, total=100, max_positive=60, negatives_per_positive=ratio)
        assert (s.valid & ~s.positive).sum() == negatives


def test_degenerate():
    nothing = draw(jax.random.key(0), np.full(N, -1, np.int32))
    assert not nothing.valid.any()
    fewer = sample_balanced(jax.random.key(0), jnp.array([1, 0]), total=6, max_positive=4)
    assert fewer.indices.shape == (6,)
    assert fewer.valid.tolist() == [True, True, False, False, False, False]
    empty = sample_balanced(jax.random.key(0), jnp.zeros(0, jnp.int32), total=3, max_positive=1)
    assert not empty.valid.any()
    background = sample_balanced(jax.random.key(0), jnp.array([1, 0, 0]), total=2, max_positive=0)
    assert sorted(background.indices.tolist()) == [1, 2]
    assert not background.positive.any()
    assert sample_balanced(jax.random.key(0), jnp.array([1, 0]), total=0, max_positive=0).indices.shape == (0,)


def test_jit_changes_nothing_and_one_trace_serves_all():
    assert_jit_changes_nothing(
        partial(sample_balanced, total=TOTAL, max_positive=MOST),
        (jax.random.key(5), np.resize([1, 0, -1, 0], N)),
        (jax.random.key(6), np.zeros(N, int)),
    )


@given(labels, st.integers(0, 1000))
def test_equals_a_ranking_of_the_same_random_numbers(label, seed):
    """Both kinds are ranked by one uniform number each; the best of them are drawn."""
    priority = np.asarray(jax.random.uniform(jax.random.key(seed), (N,)))
    drawn = [
        sorted(np.flatnonzero(label == kind), key=lambda i: -priority[i])[:slots] for kind, slots in ((1, MOST), (0, N))
    ]
    expected = (drawn[0] + drawn[1])[:TOTAL]
    s = draw(jax.random.key(seed), label)
    assert np.asarray(s.indices)[np.asarray(s.valid)].tolist() == expected
