"""The crystals laid into a scene: who owns which pixel, and which of them nobody could outline.

Of two crystals on the same pixel the later one lies on top and owns it, so masks of crystals are disjoint and show the
visible part. A crystal becomes doubtful, and so a crowd, if it hardly changes the picture, is blurred beyond a quarter
of its width (a needle, lath or thin plate beyond all of it), lies in a tangle, or is nearly covered: finding it counts
neither for nor against.
"""

from typing import NamedTuple

import numpy as np

LEAST_CHANGE = 0.013  # mean change of the transmission over its pixels below which nobody would see a crystal
LEAST_SHARE = 0.3  # visible share of its outline below which a crystal cannot be told
LEAST_PIXELS = 20  # visible pixels below which nobody outlines it, at 1280x960
MOST_BLUR = 0.28  # sigma of its defocus in units of its narrowest width, above which its edge is a guess


class LaidCrystal(NamedTuple):
    """A crystal's visible pixels, bool[ph, pw], at (top, left) of the picture; its kind; whether it is doubtful."""

    patch: np.ndarray
    top: int
    left: int
    kind: str
    doubtful: bool


class Layer:
    """Crystals in the order in which they are laid; each changes the transmission that it was made with."""

    def __init__(self, transmission: np.ndarray, scale: float):
        """Lay onto `transmission` float32[h, w], which is changed in place; `scale` in units of 1280x960."""
        self.transmission = transmission
        self.owner: np.ndarray = np.zeros(transmission.shape, np.int32)
        self._least = LEAST_PIXELS * scale**2
        self._laid: list[tuple[slice, slice, int, str, bool]] = []

    def __len__(self) -> int:
        """How many have been laid, hidden ones included."""
        return len(self._laid)

    def visible_share(self, rows: slice, columns: slice, mask: np.ndarray) -> float:
        """The share of a mask bool[ph, pw] in that place that no crystal covers yet."""
        return 1 - float((self.owner[rows, columns][mask] > 0).mean()) if mask.any() else 0.0

    def lay(
        self,
        rows: slice,
        columns: slice,
        mask: np.ndarray,
        light: np.ndarray,
        kind: str,
        *,
        blur: float = 0.0,
        doubtful: bool = False,
        through: float = 1.0,
    ) -> None:
        """Lay one crystal on top of the others.

        Args:
            rows: of the picture.
            columns: of the picture.
            mask: bool[ph, pw], its outline in that place.
            light: float32[ph, pw], what it lets through, 1 outside.
            kind: what it is called.
            blur: sigma of its defocus in units of its narrowest width.
            doubtful: whether it is so for another reason.
            through: how much of the crystals below shows, 0 to 1.
        """
        if not mask.any():
            return
        part = self.transmission[rows, columns]
        before = part.copy()
        if through < 1:
            covered = mask & (self.owner[rows, columns] > 0)
            if covered.any() and not covered.all():
                level = np.float32(np.median(before[~covered]))
                before[covered] = level + np.float32(through) * (before[covered] - level)
        part[:] = before * light
        # Judged under the light of a clear drop: a camera can be turned up, but not from nothing.
        change = float(np.abs(part - before)[mask].mean())
        self._laid.append((rows, columns, int(mask.sum()), kind, doubtful or blur > MOST_BLUR or change < LEAST_CHANGE))
        self.owner[rows, columns][mask] = len(self._laid)

    def crystals(self) -> list[LaidCrystal]:
        """Every crystal of which a pixel is visible, from the bottom up."""
        found = []
        for number, (rows, columns, area, kind, doubtful) in enumerate(self._laid, 1):
            patch = self.owner[rows, columns] == number
            seen = int(patch.sum())
            if seen:
                hidden = seen < LEAST_SHARE * area or seen < self._least
                found.append(LaidCrystal(patch, rows.start, columns.start, kind, doubtful or hidden))
        return found
