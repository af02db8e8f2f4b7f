"""Which image goes to which split, so that what is measured on one was not learnt from the other.

Several photographs show one drop, days apart or under another light, so whole drops are assigned, never single images:
a regular expression finds the drop in the name. Images of equal pixels stay together too, whatever their names.

Assignment is systematic sampling (Cochran, Sampling Techniques, chapter 8): groups are sorted by their number of
crystals, ties and the start are drawn from the seed, and every split takes its share along the way. So each gets its
share of the empty, the sparse and the crowded drops.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from crystal.errors import CrystalError

# A name up to its well: a row A to P and a column of one or two digits, in either order, as a word of its own
# (97wo_01A_2, plate7/B03, A1). What follows numbers its photographs. Any other name is a drop of its own.
# In small letters only a row before two digits counts: 3d, 24h and m2 are days, hours and runs.
DROP_IN_NAME = r"^(?:.*?[/_\-. ])?(?:\d{1,2}[A-P]|[A-P]\d{1,2}|[a-p]\d\d)(?![0-9A-Za-z])"


class SplitError(CrystalError, ValueError):
    """Shares or an expression that cannot be used."""


class SplitImage(NamedTuple):
    """An image to assign: `name` with its folders, separated by "/", without suffix; `content`, equal for equal pixels;
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


def stay_together(images: Sequence[SplitImage], pattern: re.Pattern[str]) -> list[list[int]]:
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


def assign_splits(
    images: Sequence[SplitImage], shares: Mapping[str, float], *, seed: int, pattern: re.Pattern[str] | None = None
) -> list[str]:
    """The split of each image.

    Args:
        images: in any order: the result depends on their names, not on it.
        shares: split -> its share of the images, adding up to 1; the first takes what is left over.
        seed: of the order of ties and the start; 0 or more.
        pattern: finds the group in a name; `DROP_IN_NAME` if not given.

    Returns:
        A split for each. Every split with a share has at least one group, as long as there are enough of them.

    Raises:
        SplitError: a share out of range.
    """
    if any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise SplitError(f"the shares {dict(shares)} must lie between 0 and 1 and add up to 1")
    groups = stay_together(images, pattern or compile_pattern(DROP_IN_NAME))
    groups.sort(key=lambda group: min(images[i].name for i in group))
    rng = np.random.default_rng(seed)
    rng.shuffle(groups)
    groups.sort(key=lambda group: float(np.mean([images[i].crystals for i in group])))
    names = [name for name, share in shares.items() if share > 0]
    owed = dict(zip(names, rng.dirichlet(np.ones(len(names))), strict=True))
    assigned = [""] * len(images)
    groups_of: dict[str, list[list[int]]] = {name: [] for name in names}
    for group in groups:
        for name in names:
            owed[name] += shares[name] * len(group)
        split = max(names, key=lambda name: owed[name])
        owed[split] -= len(group)
        groups_of[split].append(group)
    for name in names:  # a small share of few groups may have got none: the split with most gives its smallest
        richest = max(names, key=lambda other: len(groups_of[other]))
        if not groups_of[name] and len(groups_of[richest]) > 1:
            groups_of[name].append(groups_of[richest].pop(groups_of[richest].index(min(groups_of[richest], key=len))))
    for name, own in groups_of.items():
        for group in own:
            for i in group:
                assigned[i] = name
    return assigned
