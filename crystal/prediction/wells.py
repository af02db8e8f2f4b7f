r"""The well that a picture's name tells: row A to P, column 1 to 24, and the drop (subwell) in it.

Three forms are read, each between separators or the name's ends: `A03`, `A3_2`, `H12d1` or `H12_drop_1` (row, column,
drop); `01A_1` (column, row, drop); `01_08_03` (column, row and drop in two digits each). Where a form has no drop it is
1. `d1_r49284`, a drop and the number of an imager's run, is no well.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

ROWS = "ABCDEFGHIJKLMNOP"  # of 384 wells; 96 have 8 of them and 12 columns
_EDGE, _END = r"(?:^|[_\-. ])", r"(?=$|[_\-. ])"
_DROP = r"(?:d|drop|subwell)[_\- ]?"
FORMS = (
    re.compile(rf"{_EDGE}(?P<column>\d\d)(?P<row>[A-P])_(?:{_DROP})?(?P<drop>\d){_END}", re.IGNORECASE),
    re.compile(
        rf"{_EDGE}(?!(?-i:d)\d_r\d)(?:well)?(?P<row>[A-P])(?P<column>\d\d?)"
        rf"(?:(?:[_\-]|[_\-. ]?{_DROP})?(?P<drop>[1-9])|(?P<letter>[a-d]))?{_END}",
        re.IGNORECASE,
    ),
    re.compile(rf"{_EDGE}(?P<column>\d\d)_(?P<line>\d\d)_(?P<drop>\d\d){_END}"),
)


class Well(NamedTuple):
    """A place in a plate.

    Attributes:
        row: from 0, which is A.
        column: from 1.
        drop: the subwell, from 1.
    """

    row: int
    column: int
    drop: int

    @property
    def name(self) -> str:
        """As people write it, without the drop.

        >>> Well(7, 12, 3).name
        'H12'
        """
        return f"{ROWS[self.row]}{self.column}"


def parse_well(stem: str) -> Well | None:
    """The well that a file's name tells, without folder and suffix; None where it tells none.

    >>> parse_well("vmxi_A03"), parse_well("97wo_01A_2")
    (Well(row=0, column=3, drop=1), Well(row=0, column=1, drop=2))
    >>> parse_well("x_121121_12_08_03_HF_99_030_001") == parse_well("H12c") == Well(7, 12, 3)
    True
    >>> parse_well("small_crystals_2")
    """
    for form in FORMS:
        for found in form.finditer(stem):
            parts = found.groupdict()
            row = int(parts["line"]) - 1 if "line" in parts else ROWS.index(parts["row"].upper())
            letter = parts.get("letter")
            drop = "abcd".index(letter.lower()) + 1 if letter else int(parts["drop"] or 1)
            column = int(parts["column"])
            if 0 <= row < len(ROWS) and 1 <= column <= 24 and 1 <= drop <= 9:
                return Well(row, column, drop)
    return None


def wells_of(stems: Iterable[str]) -> list[Well | None]:
    """The well of each picture of a plate.

    None for all where fewer than half of the names tell one, or two tell the same: then what looks like a well is
    something else, as a date, or the pictures are of several plates.

    >>> wells_of(["A01", "A02", "notes"])
    [Well(row=0, column=1, drop=1), Well(row=0, column=2, drop=1), None]
    >>> wells_of(["monday_A01", "tuesday_A01"])
    [None, None]
    """
    found = [parse_well(stem) for stem in stems]
    told = [well for well in found if well]
    clear = 2 * len(told) >= len(found) and len(set(told)) == len(told)
    return found if clear else [None] * len(found)
