"""The peers' recorded numbers: `tests/goldens/*.npz`, cut by `tests/goldens/cut.py`."""

from functools import cache
from pathlib import Path

import numpy as np


@cache
def load(group: str) -> dict[str, np.ndarray]:
    """All arrays of one group."""
    with np.load(Path(__file__).parent / "goldens" / f"{group}.npz") as arrays:
        return dict(arrays)


def xyxy(yxyx):
    """Matterport's y1, x1, y2, x2 (or dy, dx, dh, dw) as x1, y1, x2, y2 (or dx, dy, dw, dh)."""
    return np.asarray(yxyx)[..., [1, 0, 3, 2]]
