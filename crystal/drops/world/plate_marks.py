"""Letters, numbers and rings embossed in the plate beside a well: ribbed glassy tubes with dark edges."""

import cv2
import numpy as np

from crystal.drops.stage import noise, ridge

SIGNS = "ABCDEFGH0123456789"
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)


def _strokes(rng: np.random.Generator, size: float, thick: float) -> np.ndarray:
    """One sign or ring as uint8[side, side], 1 on its strokes; `size` its height and `thick` its strokes, in pixels."""
    side = int(size * 1.6 + 4 * thick) + 8
    drawn = np.zeros((side, side), np.uint8)
    middle = side / 2
    if rng.random() < 0.25:
        centre, radius = (round(middle), round(middle)), round(0.4 * size)
        cv2.ellipse(drawn, centre, (radius, radius), rng.uniform(0, 360), 0, rng.uniform(150, 360), 1, round(thick))
    else:
        sign, font = SIGNS[rng.integers(len(SIGNS))], FONTS[rng.integers(len(FONTS))]
        (width, height), _ = cv2.getTextSize(sign, font, size / 22, round(thick))
        origin = round(middle - width / 2), round(middle + height / 2)
        cv2.putText(drawn, sign, origin, font, size / 22, 1, round(thick))
    turn = cv2.getRotationMatrix2D((middle, middle), float(rng.choice([0, 0, 90, 180, 270])) + rng.normal(0, 4), 1)
    return cv2.warpAffine(drawn, turn, (side, side), flags=cv2.INTER_NEAREST)


def emboss(rng: np.random.Generator, transmission: np.ndarray, place: np.ndarray, scale: float) -> None:
    """One mark, in place.

    Args:
        rng: where the chances come from.
        transmission: float32[h, w], changed.
        place: float[2], (x, y) of its middle, in pixels; it may lie partly outside the picture.
        scale: the picture's size in units of 1280x960.
    """
    thick = rng.uniform(14, 34) * scale
    strokes = _strokes(rng, rng.uniform(80, 230) * scale, thick)
    inside = cv2.distanceTransform(strokes, cv2.DIST_L2, 5)
    side = len(strokes)
    left, top = round(place[0] - side / 2), round(place[1] - side / 2)
    a, b = max(top, 0), max(left, 0)
    c, d = min(top + side, transmission.shape[0]), min(left + side, transmission.shape[1])
    if a >= c or b >= d:
        return
    deep = inside[a - top : c - top, b - left : d - left]
    # Ribs run across the tube: waves of the distance along it, here from two crossed gratings.
    rows, columns = np.mgrid[a:c, b:d].astype(np.float32)
    pitch = rng.uniform(7, 13) * scale
    ribs = np.cos(rows * (6.28 / pitch)) * np.cos(columns * (6.28 / pitch) + 0.7)
    around = np.float32(np.median(transmission[a:c, b:d]))
    level = max(float(around), rng.uniform(0.2, 0.8)) * rng.uniform(0.6, 1.1)
    tube = level * (1 + rng.uniform(0.1, 0.5) * ribs * (deep > 0.3 * thick))
    tube *= 1 - rng.uniform(0.5, 0.9) * ridge(deep, 2.5 * scale, rng.uniform(3, 6) * scale)
    tube *= 1 - rng.uniform(0, 0.6) * ridge(deep, 0.5 * thick, 0.12 * thick)
    tube *= 1 + 0.15 * noise(rng, deep.shape, 4 * scale)
    on = (cv2.GaussianBlur((deep > 0).astype(np.float32), (0, 0), rng.uniform(0.8, 3.5) * scale)) * rng.uniform(0.6, 1)
    part = transmission[a:c, b:d]
    part += on * (cv2.GaussianBlur(tube.astype(np.float32), (0, 0), rng.uniform(0.7, 3) * scale) - part)


def plate_marks(rng: np.random.Generator, transmission: np.ndarray, distance: np.ndarray, scale: float) -> None:
    """One to three marks in place, mostly on the wall or beyond; `distance` float32[h, w] is positive in the well."""
    within = 1e4 if rng.random() < 0.25 else -40 * scale
    rows, columns = np.nonzero(distance[::8, ::8] < within)
    for _ in range(int(rng.integers(1, 4)) if len(rows) else 0):
        k = rng.integers(len(rows))
        emboss(rng, transmission, np.array([columns[k], rows[k]]) * 8.0, scale)
    np.clip(transmission, 0.005, 1.5, out=transmission)
