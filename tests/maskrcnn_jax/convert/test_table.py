"""A table that is not total says all that is wrong, before anything is read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskrcnn_jax.convert.pickles import Entry, PickleError
from maskrcnn_jax.convert.table import ConversionError, Rule, convert, fold_norm

RULES = [
    Rule({"conv.weight": (2, 3)}, ("kernel",), lambda w: (w.T,)),
    Rule({"norm.gamma": (2,), "norm.beta": (2,)}, ("scale", "shift"), lambda g, b: (2 * g, b)),
]
WANTED = {"kernel": (3, 2), "scale": (2,), "shift": (2,)}


def entry(array):
    array = np.asarray(array, np.float32) if not isinstance(array, np.ndarray) else array
    return Entry(array.shape, lambda: array)


def entries():
    return {
        "conv.weight": entry(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
        "norm.gamma": entry([1, 2]),
        "norm.beta": entry([3, 4]),
    }


def test_by_hand():
    made = convert(entries(), RULES, WANTED, {})
    assert made["kernel"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert made["scale"].tolist() == [2, 4]
    assert made["shift"].tolist() == [3, 4]
    assert {array.dtype for array in made.values()} == {np.dtype(np.float32)}


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_read():
    def unread():
        raise AssertionError("read")

    file = {
        "conv.weight": Entry((2, 4), unread),
        "norm.gamma": Entry((2,), unread),
        "extra": Entry((5,), unread),
        "counter": Entry((), unread),
    }
    twice = [*RULES, Rule({"norm.gamma": (2,)}, ("scale",), lambda g: (g,)), Rule({}, ("nothing",), tuple)]
    with pytest.raises(ConversionError) as raised:
        convert(file, twice, WANTED | {"bias": (2,)}, {"count.*": "a counter"})
    assert str(raised.value).split("\n  ") == [
        "7 errors:",
        "missing: norm.beta (2,)",
        "shape of conv.weight: (2, 4) in the file, (2, 3) expected",
        "unknown: extra (5,)",
        "used by more than one rule: norm.gamma",
        "set by more than one rule: scale",
        "set by no rule: bias",
        "not a parameter of the model: nothing",
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_named(value):
    file = entries() | {"norm.beta": entry([0.0, value]), "norm.gamma": entry([value, 0.0])}
    with pytest.raises(ConversionError, match=r"(?s)2 errors.*norm\.gamma has NaN.*norm\.beta has NaN"):
        convert(file, RULES, WANTED, {})


def test_whole_numbers_are_no_weights():
    with pytest.raises(ConversionError, match=r"norm\.gamma has NaN or infinite values, or is not"):
        convert(entries() | {"norm.gamma": entry(np.array([1, 2]))}, RULES, WANTED, {})


def test_what_a_rule_makes_is_checked_too():
    """A variance under 0 gives NaN; a rule that forgets to transpose another shape."""
    norm = Rule({k: (1,) for k in "abcd"}, ("scale", "shift"), lambda *s: fold_norm(*s, epsilon=0.0))
    file = {k: entry([v]) for k, v in zip("abcd", (1, 0, 0, -1), strict=True)}
    with pytest.raises(ConversionError, match="scale has shape"):
        convert(file, [norm], {"scale": (1,), "shift": (1,)}, {})
    with pytest.raises(ConversionError, match="kernel has shape"):
        convert(entries(), [Rule({"conv.weight": (2, 3)}, ("kernel",), lambda w: (w,)), RULES[1]], WANTED, {})


def test_an_array_that_cannot_be_read_is_named():
    def broken():
        raise PickleError("cut short")

    with pytest.raises(ConversionError, match=r"conv\.weight: cut short"):
        convert(entries() | {"conv.weight": Entry((2, 3), broken)}, RULES, WANTED, {})


positive = hnp.arrays(np.float64, 4, elements=st.floats(0.1, 10))
any_sign = hnp.arrays(np.float64, 4, elements=st.floats(-10, 10))


@given(any_sign, any_sign, any_sign, positive, any_sign, any_sign, st.sampled_from([0.0, 1e-5, 1e-3]))
def test_a_folded_norm_is_the_norm(gamma, beta, mean, variance, bias, x, epsilon):
    scale, shift = fold_norm(gamma, beta, mean, variance, bias, epsilon=epsilon)
    normed = gamma * (x + bias - mean) / np.sqrt(variance + epsilon) + beta
    np.testing.assert_allclose(scale * x + shift, normed, rtol=1e-9, atol=1e-9)
