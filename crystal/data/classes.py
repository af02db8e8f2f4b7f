"""A file's categories and a network's classes: which is which, by name.

Their order and ids differ from file to file, so that neither says which class is meant. Runs in input workers: no JAX.
"""

import unicodedata
from collections.abc import Sequence

from crystal.console import printable
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Split

DROP = "drop"  # the class of the drops themselves, of a network that knows them


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def is_drop(name: str) -> bool:
    """Whether a class of that name is the drop itself.

    >>> is_drop("Drop"), is_drop("droplet")
    (True, False)
    """
    return _plain(name) == DROP


def index_of(name: str, classes: Sequence[tuple[int, str]]) -> int | None:
    """The index of the class of that name, background left out: the same name, else the only one that differs from it
    in upper and lower case or in surrounding spaces alone; None if there is none.

    >>> index_of("Crystal", ((0, "background"), (5, "salt"), (9, "crystal")))
    2
    """
    for form in (str, _plain):
        found = [index for index, (_, own) in enumerate(classes) if index and form(own) == form(name)]
        if len(found) == 1:
            return found[0]
    return None


def names_of(classes: Sequence[tuple[int, str]]) -> str:
    """The names of the first classes, background left out, for messages."""
    return ", ".join(printable(name) for _, name in classes[1:6]) + (", ..." if len(classes) > 6 else "")


def with_classes_of(split: Split, classes: Sequence[tuple[int, str]]) -> tuple[Split, list[str]]:
    """The split with a network's classes for its categories, and notes on what has no counterpart.

    Classes are matched by name (`index_of`) or, where no name fits, by id. Objects of a category without a counterpart
    are left out. A class that the file does not list is `unlisted`: nobody has outlined its objects, so predictions of
    it are neither right nor false.

    Args:
        split: as it was read.
        classes: (id, name) of the network's classes, background first.

    Returns:
        A split whose categories have the order of `classes` and the names and ids of the file, and sentences.

    Raises:
        DatasetError: no category, or none that has an object, is a class of the network.
    """
    theirs = split.categories
    same = {own: k for k, own in enumerate(classes) if k}  # id and name: two categories may have one name
    found = {k: same.get(own) or index_of(own[1], classes) for k, own in enumerate(theirs) if k}
    index, notes = {k: own for k, own in found.items() if own}, []
    if not index:
        by_id = {number: k for k, (number, _) in enumerate(classes) if k}
        index = {k: by_id[number] for k, (number, _) in enumerate(theirs) if k and number in by_id}
        pairs = ", ".join(f"{printable(theirs[k][1])} as {printable(classes[own][1])}" for k, own in index.items())
        notes = [f"no category has the name of a class of the network; taken by id: {pairs}"] if index else []
    objects = [i.category for record in split.records for i in record.instances if not i.crowd]
    if not index or (objects and not any(category in index for category in objects)):
        raise DatasetError(
            f"{split.source}: none of its {'objects' if index else 'categories'} ({names_of(theirs)}) is of a class "
            f"that the network knows ({names_of(classes)}); rename the categories, or take a model trained on them"
        )
    unknown = {k: objects.count(k) for k in range(1, len(theirs)) if k not in index}
    if unknown:
        named = ", ".join(f"{printable(theirs[k][1])} ({count} objects)" for k, count in unknown.items())
        notes.append(f"left out, since the network has no such class: {named}")
    missing = {k: own for k, own in enumerate(classes) if k and k not in index.values()}
    if missing:
        notes.append(f"not judged, since the file does not list the class: {names_of(((0, ''), *missing.values()))}")
    listed: dict[int, tuple[int, str]] = {}
    for k, own in index.items():
        if own not in listed or theirs[k][1] == classes[own][1]:
            listed[own] = theirs[k]
    free = max(number for number, _ in theirs) + 1
    categories = [listed.get(k, (free + k, name)) for k, (_, name) in enumerate(classes)]
    categories[0] = theirs[0]
    records = tuple(
        record._replace(
            instances=tuple(i._replace(category=index[i.category]) for i in record.instances if i.category in index)
        )
        for record in split.records
    )
    unlisted = frozenset({*missing, *(index[k] for k in split.unlisted & index.keys())})
    renamed = split._replace(categories=tuple(categories), records=records, unlisted=unlisted)
    return renamed, [f"{split.source}: {note}" for note in notes]
