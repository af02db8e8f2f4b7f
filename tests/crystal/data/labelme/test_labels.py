"""Labels: suffixes, names that are renamed or dropped, rules that make no sense."""

import doctest

import pytest

from crystal.data.labelme import labels
from crystal.data.labelme.labels import LabelRuleError, LabelRules, Meaning


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(labels).failed == 0


@pytest.mark.parametrize(
    ("label", "meaning"),
    [
        ("person", Meaning("person", "", "person")),
        ("person-2", Meaning("person", "2", "person")),
        ("potted plant-12", Meaning("potted plant", "12", "potted plant")),
        ("tv-monitor", Meaning("tv-monitor", "", "tv-monitor")),
        ("a-b-3", Meaning("a-b", "3", "a-b")),
        ("-3", Meaning("-3", "", "-3")),
        ("crystal-2b", Meaning("crystal-2b", "", "crystal-2b")),
        ("__ignore__", None),
        ("__ignore__-1", None),
        ("_background_", None),
        ("background", None),
    ],
)
def test_a_number_after_a_hyphen_names_an_instance(label, meaning):
    assert LabelRules().category(label) == meaning


def test_rules_rename_drop_and_keep_only():
    rules = LabelRules.parse(["xtal=crystal", "ice=", "form-2 = form-2", "__ignore__=precipitate", "a=b=c"])
    assert rules.category("xtal-7") == ("crystal", "7", "xtal")
    assert rules.category("ice") is rules.category("ice-3") is None
    assert rules.category("form-2") == ("form-2", "", "form-2")
    assert rules.category("__ignore__") == ("precipitate", "", "__ignore__")
    assert rules.category("a=b") == ("c", "", "a=b")  # the last equals sign parts: labels may hold one
    only = LabelRules.parse(["crystal=crystal", "*="])
    assert only.category("crystal-1") == ("crystal", "1", "crystal")
    assert only.category("loop") is None
    assert LabelRules.parse(["*=object"]).category("_background_") is None


@pytest.mark.parametrize("rules", [["ice"], ["=crystal"], ["ice=", "ice=x"]])
def test_rules_that_make_no_sense(rules):
    with pytest.raises(LabelRuleError, match="--labels"):
        LabelRules.parse(rules)
