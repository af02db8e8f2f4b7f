"""Which shapes are one object: by group_id, by a numbered label, by both; otherwise each is its own."""

import pytest

from crystal.data.labelme.document import read_shape
from crystal.data.labelme.labels import LabelRules
from crystal.data.labelme.objects import group_shapes
from tests.labelme_files import shape


def grouped(*labels_and_groups, rules=()):
    shapes = [read_shape(shape(label, group_id=group), i) for i, (label, group) in enumerate(labels_and_groups, 1)]
    found = group_shapes(shapes, LabelRules.parse(rules))
    return [(i.category, i.name, [s.number for s in i.shapes]) for i in found]


@pytest.mark.parametrize(
    ("shapes", "instances"),
    [
        # two polygons "crystal" are two crystals
        ([("crystal", None)] * 2, [("crystal", "crystal-1", [1]), ("crystal", "crystal-2", [2])]),
        ([("crystal", None)], [("crystal", "crystal", [1])]),
        # group_id, whatever stands between
        (
            [("sofa", 0), ("chair", None), ("sofa", 0), ("sofa", None)],
            [("sofa", "sofa-1", [1, 3]), ("chair", "chair", [2]), ("sofa", "sofa-2", [4])],
        ),
        # the label with its number, as in 3.16.2
        (
            [("person-1", None), ("person-2", None), ("bottle", None), ("person-2", None)],
            [("person", "person-1", [1]), ("person", "person-2", [2, 4]), ("bottle", "bottle", [3])],
        ),
        # one group_id for different labels does not make them one
        ([("crystal", 1), ("drop", 1)], [("crystal", "crystal", [1]), ("drop", "drop", [2])]),
        # both: equal number and equal group
        (
            [("a-1", 5), ("a-1", 5), ("a-1", 6), ("a-2", 5)],
            [("a", "a-1", [1, 2]), ("a", "a-3", [3]), ("a", "a-2", [4])],
        ),
        # a name of its own for each: the free numbers
        (
            [("a", None), ("a-1", None), ("a", None)],
            [("a", "a-2", [1]), ("a", "a-1", [2]), ("a", "a-3", [3])],
        ),
        ([("a", 3), ("a", 3.0), ("a", "3")], [("a", "a-1", [1, 2]), ("a", "a-2", [3])]),
    ],
)  # fmt: skip
def test_grouping(shapes, instances):
    assert grouped(*shapes) == instances


@pytest.mark.parametrize("rules", [["plate=crystal", "needle=crystal"], ["*=crystal"]])
def test_labels_that_are_joined_keep_their_own_numbers_and_groups(rules):
    """Numbers are counted label by label: plate 1 and needle 1 are two crystals."""
    found = grouped(("plate-1", None), ("needle-1", None), ("plate-1", None), ("needle", 1), ("plate", 1), rules=rules)
    assert [(category, shapes) for category, _, shapes in found] == [
        ("crystal", [1, 3]),
        ("crystal", [2]),
        ("crystal", [4]),
        ("crystal", [5]),
    ]
    assert len({name for _, name, _ in found}) == 4


def test_a_thousand_shapes_have_a_thousand_names():
    found = grouped(*[("crystal", None)] * 1000)
    assert len({name for _, name, _ in found}) == 1000
