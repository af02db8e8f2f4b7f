"""The interval covers what it should, as often as it should, and pairing is what makes it narrow."""

import math

import numpy as np
import pytest

from crystal.evaluation.intervals import paired_interval, spread


def test_spread_by_hand():
    assert spread([0.2, 0.4, 0.6])[:2] == (pytest.approx(0.4), pytest.approx(0.2))
    assert math.isnan(spread([0.3]).deviation)
    assert math.isnan(spread([0.3, math.nan]).mean)


def test_the_interval_of_one_seed_is_that_of_the_mean():
    """Against the normal approximation: mean plus and minus 1.96 standard errors."""
    differences = np.random.default_rng(0).normal(0.03, 0.2, (1, 400))
    error = differences.std(ddof=1) / math.sqrt(400)
    low, high = paired_interval(differences)
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = [low < 0.1 < high for low, high in (paired_interval(rng.normal(0.1, 1, (2, 60))) for _ in range(200))]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_what_both_share_does_not_widen_it():
    """Images differ by far more than the two networks do: paired, the difference is plain; apart, it would not be."""
    rng = np.random.default_rng(2)
    hard = rng.uniform(0, 1, (1, 100))
    one, other = hard + rng.normal(0, 0.01, (1, 100)), hard + 0.05 + rng.normal(0, 0.01, (1, 100))
    low, high = paired_interval(other - one)
    assert 0.04 < low < 0.05 < high < 0.06


def test_seeds_that_disagree_widen_it_only_when_they_are_resampled():
    differences = np.array([[0.3], [-0.1]]) + np.random.default_rng(3).normal(0, 0.01, (2, 50))
    low, high = paired_interval(differences)
    assert 0.09 < low < high < 0.11
    low, high = paired_interval(differences, resample_seeds=True)
    assert low < -0.09
    assert high > 0.29


def test_images_a_seed_was_not_measured_on_do_not_count():
    differences = np.full((2, 40), np.nan)
    differences[0, :20], differences[1, 20:] = 0.2, 0.4
    assert paired_interval(differences) == (pytest.approx(0.3), pytest.approx(0.3))
    assert all(math.isnan(end) for end in paired_interval(np.full((1, 3), np.nan)))
