"""Which image goes to which split, so that what is measured on one was not learnt from the other.

Several photographs show one drop, days apart or under another light, so whole drops are dealt out, never single images:
the name tells the drop, by a regular expression. Images of equal pixels stay together too, whatever they are called.

Dealing is systematic sampling (Cochran, Sampling Techniques, chapter 8): groups in the order of how many crystals they
show, the order of equals and the start drawn from the seed, and every split takes its share along the way. So each
gets its share of the empty, the sparse and the crowded drops.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from crystal.errors import CrystalError

# Up to a well: a row A to P and a column of one or two digits, in either order, as a word of its own (97wo_01A_2,
# plate7/B03, A1). With a second picture of it after that. Other names are drops of their own.
DROP_IN_NAME = r"^(?:.*?[/_\-. ])?(?:\d{1,2}[A-P]|[A-P]\d{1,2})(?![0-9A-Za-z])"


class SplitError(CrystalError, ValueError):
    """Shares or an expression that cannot be used."""


class Dealt(NamedTuple):
    """An image to be dealt: `name` with its folders, parted by "/", without suffix; `content`, equal for equal pixels;
    `crystals`, how many it shows.
    """

    name: str
    content: str
    crystals: int


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The expression that finds the group. Raises SplitError if it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SplitError(f"--group {pattern}: is no regular expression ({error}); correct it") from error


def group_of(name: str, pattern: re.Pattern[str]) -> str:
    """The drop or plate in a name: the expression's first group, or all it matches; the whole name if it does not.

    >>> default = compile_pattern(DROP_IN_NAME)
    >>> [group_of(n, default) for n in ("97wo_01A_1", "97wo_01A_2", "plate7/B03", "drop_train_00012")]
    ['97wo_01A', '97wo_01A', 'plate7/B03', 'drop_train_00012']
    """
    found = pattern.search(name)
    if not found:
        return name
    return next((group for group in found.groups() if group), found.group())


def _joined(images: Sequence[Dealt], pattern: re.Pattern[str]) -> list[list[int]]:
    """Indices of the images that stay together: of one group, or of equal content, or linked by a chain of these."""
    parent = list(range(len(images)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, image in enumerate(images):
        for key in (("group", group_of(image.name, pattern)), ("content", image.content)):
            parent[root(i)] = root(first.setdefault(key, i))
    together: dict[int, list[int]] = {}
    for i in range(len(images)):
        together.setdefault(root(i), []).append(i)
    return list(together.values())


def deal(
    images: Sequence[Dealt], shares: Mapping[str, float], *, seed: int, pattern: re.Pattern[str] | None = None
) -> list[str]:
    """The split of each image.

    Args:
        images: in any order: the result depends on their names, not on it.
        shares: split -> its share of the images, adding up to 1; the first takes what is left over.
        seed: 0 or more.
        pattern: finds the group in a name; `DROP_IN_NAME` if not given.

    Returns:
        A split for each. Every split with a share has at least one group, as long as there are enough of them.

    Raises:
        SplitError: a share out of range.
    """
    if any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise SplitError(f"the shares {dict(shares)} must lie between 0 and 1 and add up to 1")
    groups = _joined(images, pattern or compile_pattern(DROP_IN_NAME))
    groups.sort(key=lambda group: min(images[i].name for i in group))
    rng = np.random.default_rng(seed)
    rng.shuffle(groups)
    groups.sort(key=lambda group: float(np.mean([images[i].crystals for i in group])))
    names = [name for name, share in shares.items() if share > 0]
    owed = dict(zip(names, rng.dirichlet(np.ones(len(names))), strict=True))
    dealt = [""] * len(images)
    given: dict[str, list[list[int]]] = {name: [] for name in names}
    for group in groups:
        for name in names:
            owed[name] += shares[name] * len(group)
        split = max(names, key=lambda name: owed[name])
        owed[split] -= len(group)
        given[split].append(group)
    for name in names:  # a small share of few groups may have come to nothing: the richest gives its smallest
        richest = max(names, key=lambda other: len(given[other]))
        if not given[name] and len(given[richest]) > 1:
            given[name].append(given[richest].pop(given[richest].index(min(given[richest], key=len))))
    for name, own in given.items():
        for group in own:
            for i in group:
                dealt[i] = name
    return dealt
