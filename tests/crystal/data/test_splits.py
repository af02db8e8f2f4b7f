"""Splits: whole drops, equal pixels together, shares met, sparse and crowded drops in each, the seed alone decides."""

import doctest
import math

import numpy as np
import pytest

from crystal.data import splits
from crystal.data.splits import DROP_IN_NAME, SplitError, SplitImage, assign_splits, compile_pattern, group_of

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def plates(drops=300, seed=0):
    """Drops of one to four pictures; what they show differs from empty to crowded."""
    rng = np.random.default_rng(seed)
    images = []
    for drop in range(drops):
        crystals = int(rng.choice([0, 1, 3, 8, 30]))
        name = f"plate{drop // 96}_{'ABCDEFGH'[drop % 96 // 12]}{drop % 12 + 1:02d}"
        images += [SplitImage(f"{name}_{k}", f"{name}{k}", crystals) for k in range(int(rng.integers(1, 5)))]
    return images


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(splits).failed == 0


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("97wo_01A_1", "97wo_01A"),
        ("97wo_01A_2", "97wo_01A"),
        ("97wo_01A", "97wo_01A"),
        ("97wo_01B_1", "97wo_01B"),
        ("vmxi_A03", "vmxi_A03"),
        ("A1-2021-11-23", "A1"),
        ("plate 7/A1/day3", "plate 7/A1"),
        ("plate7/A1.2", "plate7/A1"),
        ("plate8/A1.2", "plate8/A1"),
        ("plate1_a01_2", "plate1_a01"),
        ("plate1_3d_B03", "plate1_3d_B03"),
        ("exp_24h_01", "exp_24h_01"),
        ("d1_r49284_ef", "d1_r49284_ef"),
        # no well: drops of their own
        ("drop_train_00012", "drop_train_00012"),
        ("data_marco_gsk_crystals_10", "data_marco_gsk_crystals_10"),
        ("manual_omega_210.00_zoom_9_y_486_x_670", "manual_omega_210.00_zoom_9_y_486_x_670"),
        ("img_123A_1", "img_123A_1"),
        ("IMG01A", "IMG01A"),
    ],
)
def test_the_drop_in_a_name(name, group):
    assert group_of(name, compile_pattern(DROP_IN_NAME)) == group


def test_another_expression_may_say_the_plate():
    plate = compile_pattern(r"^(plate\d+)_")
    assert group_of("plate12_A01_3", plate) == "plate12"
    assert group_of("other", plate) == "other"
    dealt = assign_splits(plates(), {"train": 0.5, "val": 0.5}, seed=0, pattern=plate)
    for number in range(4):
        assert (
            len({split for split, i in zip(dealt, plates(), strict=True) if i.name.startswith(f"plate{number}_")}) == 1
        )


@pytest.mark.parametrize("seed", range(5))
def test_drops_stay_whole_and_shares_are_met(seed):
    images = plates()
    dealt = assign_splits(images, SHARES, seed=seed)
    splits_of = {}
    for split, image in zip(dealt, images, strict=True):
        splits_of.setdefault(image.name.rsplit("_", 1)[0], set()).add(split)
    assert all(len(own) == 1 for own in splits_of.values())
    for split, share in SHARES.items():
        assert dealt.count(split) == pytest.approx(share * len(images), abs=5)


@pytest.mark.parametrize("seed", range(5))
def test_each_split_gets_its_share_of_sparse_and_crowded_drops(seed):
    images = plates()
    dealt = assign_splits(images, SHARES, seed=seed)
    for crystals in (0, 1, 3, 8, 30):
        own = [split for split, image in zip(dealt, images, strict=True) if image.crystals == crystals]
        for split, share in SHARES.items():
            # Chance alone would stray by two of its standard deviations in one of twenty cases, systematically not.
            assert abs(own.count(split) - share * len(own)) < max(4, 0.6 * math.sqrt(len(own)))


def test_the_seed_decides_and_the_order_does_not():
    images = plates()
    first = dict(zip([i.name for i in images], assign_splits(images, SHARES, seed=1), strict=True))
    assert dict(zip([i.name for i in images[::-1]], assign_splits(images[::-1], SHARES, seed=1), strict=True)) == first
    other = dict(zip([i.name for i in images], assign_splits(images, SHARES, seed=2), strict=True))
    assert sum(first[name] != other[name] for name in first) > 100


def test_equal_pixels_stay_together_through_a_chain():
    """a and b show the same drop, b and c the same pixels, c and d the same drop."""
    chain = [
        SplitImage("A1_1", "x", 1),
        SplitImage("A1_2", "y", 9),
        SplitImage("B2_1", "y", 1),
        SplitImage("B2_2", "z", 1),
    ]
    for seed in range(20):
        dealt = assign_splits([*plates(40), *chain], {"train": 0.5, "val": 0.5}, seed=seed)
        assert len(set(dealt[-4:])) == 1


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_drops_leave_no_split_empty(count):
    images = [SplitImage(f"drop{i}", str(i), i) for i in range(count)]
    for seed in range(20):
        assert set(assign_splits(images, {"train": 0.95, "val": 0.05}, seed=seed)) == {"train", "val"}


def test_a_split_without_a_share_gets_nothing_and_one_drop_cannot_be_parted():
    images = [SplitImage(f"A1_{i}", str(i), 2) for i in range(9)]
    assert len(set(assign_splits(images, SHARES, seed=0))) == 1
    assert set(assign_splits(images, {"train": 1.0, "val": 0.0}, seed=0)) == {"train"}
    assert assign_splits([], SHARES, seed=0) == []


@pytest.mark.parametrize("shares", [{"train": 1.2, "val": -0.2}, {"train": 0.5, "val": 0.2}, {"train": float("nan")}])
def test_shares_that_make_no_sense(shares):
    with pytest.raises(SplitError, match="add up to 1"):
        assign_splits([], shares, seed=0)


def test_an_expression_that_makes_no_sense():
    with pytest.raises(SplitError, match="is no regular expression"):
        compile_pattern("(")
