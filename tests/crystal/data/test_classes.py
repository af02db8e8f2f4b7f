"""Categories of a file and classes of a network: the same by name, whatever their order and ids are."""

from pathlib import Path

import pytest

from crystal.data.classes import with_classes_of
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Instance, Record, Split

CLASSES = ((0, "background"), (4, "crystal"), (7, "loop"))


def split_of(*categories, objects=()):
    """A split with an object of each of these categories, by index, in a single image."""
    instances = tuple(Instance(k, (0, 0, 9, 9), [[0, 0, 9, 0, 9, 9]], False, n) for n, k in enumerate(objects, 1))
    record = Record(1, Path("a.png"), "a.png", 10, 10, instances)
    return Split(((0, "background"), *categories), (record,), (), Path("val.json"))


def classes_of(split):
    return [i.category for i in split.records[0].instances]


@pytest.mark.parametrize(
    ("categories", "objects", "expected", "ids"),
    [
        (((4, "crystal"), (7, "loop")), (1, 2), [1, 2], (0, 4, 7)),
        (((1, "loop"), (2, "crystal")), (1, 2), [2, 1], (0, 2, 1)),
        (((7, "crystal"), (4, "loop")), (1, 2), [1, 2], (0, 7, 4)),  # names before ids
        (((1, " Loop"), (2, "CRYSTAL")), (1, 2), [2, 1], (0, 2, 1)),
    ],
)
def test_names_decide(categories, objects, expected, ids):
    found, notes = with_classes_of(split_of(*categories, objects=objects), CLASSES)
    assert classes_of(found) == expected
    assert tuple(number for number, _ in found.categories) == ids
    assert notes == []
    assert with_classes_of(found, CLASSES) == (found, [])  # once more changes nothing
    assert not found.unlisted


def test_what_has_no_counterpart_is_said():
    found, notes = with_classes_of(split_of((1, "ice"), (2, "loop"), objects=(1, 2, 1)), CLASSES)
    assert classes_of(found) == [2]
    assert found.categories[2] == (2, "loop")
    assert len({number for number, _ in found.categories}) == 3  # the id of the class that is not listed is free
    assert [note.partition("val.json: ")[2].partition(":")[0] for note in notes] == [
        "left out, since the network has no such class",
        "not judged, since the file does not list the class",
    ]
    assert found.unlisted == {1}
    assert "ice (2 objects)" in notes[0]
    assert with_classes_of(found, CLASSES)[0].unlisted == {1}


def test_ids_where_no_name_fits():
    found, notes = with_classes_of(split_of((7, "fibre loop"), objects=(1,)), CLASSES)
    assert classes_of(found) == [2]
    assert "taken by id: fibre loop as loop" in notes[0]


@pytest.mark.parametrize(
    ("categories", "objects", "named"),
    [
        (((1, "ice"), (2, "dust")), (1,), r"none of its categories \(ice, dust\).*\(crystal, loop\)"),
        (((1, "ice"), (4, "crystal")), (1,), r"none of its objects \(ice, crystal\)"),
    ],
)
def test_nothing_in_common_is_refused(categories, objects, named):
    with pytest.raises(DatasetError, match=rf"val\.json: {named}"):
        with_classes_of(split_of(*categories, objects=objects), CLASSES)


def test_names_that_occur_twice():
    """Two categories of one name are told apart by their ids; a name that fits two classes fits none."""
    twice = ((0, "background"), (1, "crystal"), (2, "crystal"))
    found, notes = with_classes_of(split_of((1, "crystal"), (2, "crystal"), objects=(2, 1)), twice)
    assert (classes_of(found), notes) == ([2, 1], [])
    cases = ((0, "background"), (1, "Crystal"), (2, "crystal"))
    found, notes = with_classes_of(split_of((1, "crystal"), (2, "CRYSTAL"), objects=(1, 2)), cases)
    assert classes_of(found) == [2]
    assert "CRYSTAL (1 objects)" in notes[0]
