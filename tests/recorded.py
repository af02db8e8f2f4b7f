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


def network(group: str, image: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A golden as `maskrcnn_jax.convert.verify` reads it, with its image: the one given, or the one recorded."""
    golden = dict(load(group))
    if image is None:
        x1, y1, x2, y2 = golden["window"]
        image = np.zeros(golden.pop("image.size"), np.uint8)
        image[y1:y2, x1:x2] = np.cumsum(golden.pop("image.differences"), axis=1, dtype=np.uint8)
    return {"image": image} | golden
