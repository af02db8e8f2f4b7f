"""What the painters of wells, contents and camera share: the stage they paint on, and smooth fields.

A micrograph in transmitted light is a product: what each layer lets through, times the light. So every painter
multiplies into one transmission float32[h, w] (1 = clear, 0 = black). Colour is smooth, so it lives in `tint`
float32[h/4, w/4, 3] and is enlarged at the end. Smooth fields are computed small and enlarged too, which is most of the
speed.

Lengths are in pixels; `scale` is the image's size in units of 1000x800, so that a drop looks the same at any size.
Distances are positive inside a shape.
"""

from typing import NamedTuple

import cv2
import numpy as np

COARSE = 4  # pixels a cell of the tint


class Stage(NamedTuple):
    """What the camera will see, painted in place.

    transmission: float32[h, w], 1 = clear.   tint: float32[h/4, w/4, 3], RGB, 1 = white.
    drop: float32[h, w], distance in pixels to the edge of drop or well.   polarised: whether crystals show colours.
    """

    transmission: np.ndarray
    tint: np.ndarray
    drop: np.ndarray
    polarised: bool


def tint_part(stage: Stage, rows: slice, columns: slice, share: np.ndarray, colour: np.ndarray) -> None:
    """Multiply the tint in a part of the picture by an RGB `colour`, in place.

    share: float32[ph, pw], 0 to 1, how much of the colour each pixel of the part takes; cells take the mean of theirs.
    """
    up, left = rows.start % COARSE, columns.start % COARSE
    height, width = share.shape
    # The part need not begin or end with a cell.
    whole = np.pad(share.astype(np.float32), ((up, -(up + height) % COARSE), (left, -(left + width) % COARSE)))
    small = cv2.resize(whole, (whole.shape[1] // COARSE, whole.shape[0] // COARSE), interpolation=cv2.INTER_AREA)
    cells = stage.tint[rows.start // COARSE :, columns.start // COARSE :][: small.shape[0], : small.shape[1]]
    cells *= 1 + small[..., None] * (colour - 1).astype(np.float32)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number from `low` to `high`, both positive, whose logarithm is uniform: as often small as large."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise float32[shape] of about unit variance whose features are `cell` pixels across."""
    cell = max(cell, 1.0)
    small = rng.standard_normal((int(shape[0] / cell) + 4, int(shape[1] / cell) + 4), np.float32)
    # Cutting a larger field keeps the features round whatever the shape.
    whole = cv2.resize(small, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(whole[: shape[0], : shape[1]])


def step(distance: np.ndarray, width: float) -> np.ndarray:
    """Smooth step float32: 0 below -width, 1 above +width."""
    t = np.clip(distance * np.float32(0.5 / width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def ridge(distance: np.ndarray, at: float, width: float) -> np.ndarray:
    """A line at `distance` = at: 1 on it, 0 beyond `width` pixels."""
    return np.clip(1 - np.abs(distance - np.float32(at)) * np.float32(1 / width), 0, 1)


def grid(shape: tuple[int, int], cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (x, y) of the middles of `cell`-pixel cells, broadcastable float32."""
    rows, columns = -(-shape[0] // cell), -(-shape[1] // cell)
    x = (np.arange(columns, dtype=np.float32) + 0.5) * cell
    y = (np.arange(rows, dtype=np.float32) + 0.5) * cell
    return x[None], y[:, None]


def enlarge(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A field on a coarse grid brought to full size float32."""
    return cv2.resize(field.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


def press(transmission: np.ndarray, patch: np.ndarray, x: float, y: float) -> None:
    """Multiply a patch centred at (x, y) into the transmission, cut at the image's edges."""
    height, width = patch.shape
    left, top = round(x - width / 2), round(y - height / 2)
    a, b = max(top, 0), max(left, 0)
    c, d = min(top + height, transmission.shape[0]), min(left + width, transmission.shape[1])
    if a < c and b < d:
        transmission[a:c, b:d] *= patch[a - top : c - top, b - left : d - left]


def inside(rng: np.random.Generator, distance: np.ndarray, margin: float) -> np.ndarray | None:
    """A random point (x, y) where the distance exceeds the margin, or None where there is none."""
    rows, columns = np.nonzero(distance[::8, ::8] > margin)
    if not len(rows):
        return None
    k = rng.integers(len(rows))
    return np.array([columns[k], rows[k]]) * 8 + rng.uniform(0, 8, 2)


def curve(rng: np.random.Generator, start: np.ndarray, length: float, bend: float) -> np.ndarray:
    """A wandering line int32[n, 2] in 1/16 pixels of about `length` pixels; bend 0 = straight."""
    steps = 24
    turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend) + rng.normal(0, 0.5 * bend, steps))
    walk = np.cumsum(np.c_[np.cos(turns), np.sin(turns)], 0) * length / steps
    return np.round((start + walk - walk[steps // 2]) * 16).astype(np.int32)
