"""The well of the plate and the drop in it, as what they let through and as the distance to their edges."""

import cv2
import numpy as np

from crystal.drops.stage import enlarge, grid, noise, ridge, step


def _middle(shape: tuple[int, int]) -> np.ndarray:
    """The image's middle (x, y), float32."""
    return np.array([shape[1] / 2, shape[0] / 2], np.float32)


def _loop(rng: np.random.Generator, harmonics: range, strength: float) -> np.ndarray:
    """A smooth closed curve float32[3601] over the angle in tenths of a degree, around 0."""
    angle = np.radians(np.arange(3601) / 10)
    waves = [rng.normal(0, strength / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in harmonics]
    return np.sum(waves, axis=0).astype(np.float32)


def round_well(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A round well in a moulded plate: (transmission, distance to its wall, centre)."""
    x, y = grid(shape, 2)
    centre = _middle(shape) + rng.normal(0, 25, 2).astype(np.float32) * scale
    radius = rng.uniform(345, 410) * scale
    dx, dy = x - centre[0], y - centre[1]
    distance = enlarge(radius - np.hypot(dx, dy), shape)
    # The dark ring is a sloping wall; its outer edge is soft and often squarish.
    power = rng.uniform(2, 4)
    outer = enlarge((np.abs(dx) ** power + np.abs(dy) ** power) ** (1 / power), shape)
    outer = outer - np.float32(radius + rng.uniform(85, 135) * scale)
    ring = rng.uniform(0.015, 0.06) * (1 + 0.35 * noise(rng, shape, 3 * scale))
    plate = rng.uniform(0.3, 0.8) * (1 + 0.05 * noise(rng, shape, 90 * scale))
    streaks = cv2.resize(
        rng.standard_normal((1, shape[1] // 6), np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR
    )
    plate = plate * (1 + 0.03 * streaks)
    wall = ring + (plate - ring) * step(outer, rng.uniform(4, 40) * scale)
    bed = 1 - rng.uniform(0.1, 0.7) * step(
        enlarge(np.hypot(dx - rng.normal(0, 14), dy - rng.normal(0, 14)) - radius + 18, shape), 7 * scale
    )
    transmission = wall + (bed - wall) * step(distance, 1.6 * scale)
    line = rng.uniform(4, 10) * scale  # the lip: a bright line between two dark ones
    transmission *= 1 - 0.75 * ridge(distance, line, 2.2 * scale)
    transmission += rng.uniform(0.1, 0.5) * ridge(distance, line - 4 * scale, 3 * scale)
    if rng.random() < 0.4:  # a shelf cut off on one side
        edge = (x - centre[0]) * (1 if rng.random() < 0.5 else -1) + (y - centre[1]) * rng.normal(0, 0.03)
        edge = enlarge(edge, shape) - np.float32(radius * rng.uniform(0.72, 0.86))
        transmission *= 1 - rng.uniform(0.5, 0.9) * step(edge - 14 * scale, 14 * scale) * step(distance, 3)
        distance = np.minimum(distance, -edge)
    return transmission, distance, centre


def square_well(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square, rough-walled well with round corners: (transmission, distance to its wall, centre)."""
    x, y = grid(shape, 2)
    centre = _middle(shape) + rng.normal(0, 20, 2).astype(np.float32) * scale
    half, corner = rng.uniform(365, 430) * scale, rng.uniform(20, 50) * scale
    dx, dy = np.abs(x - centre[0]) - half + corner, np.abs(y - centre[1]) - half * rng.uniform(0.92, 1) + corner
    distance = corner - np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) - np.minimum(np.maximum(dx, dy), 0)
    distance = enlarge(distance, shape) + rng.uniform(0.3, 1.3) * scale * (
        noise(rng, shape, 9 * scale) + noise(rng, shape, 31 * scale)
    )
    rough = noise(rng, shape, 5 * scale) * np.maximum(noise(rng, shape, 80 * scale), 0)
    wall = rng.uniform(0.02, 0.06) + 0.06 * np.maximum(rough - 0.6, 0)
    bed = 1 - rng.uniform(0.1, 0.5) * (1 - step(distance, rng.uniform(15, 40) * scale))
    return wall + (bed - wall) * step(distance, 3 * scale), distance, centre


def open_well(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A close look at the floor of a well, the wall at most crossing one side: (transmission, distance, centre)."""
    x, y = grid(shape, 2)
    middle = _middle(shape)
    heading = rng.uniform(0, 2 * np.pi)
    away = np.array([np.cos(heading), np.sin(heading)], np.float32)
    radius = rng.uniform(700, 1100) * scale
    hub = middle - away * (radius - rng.uniform(380, 700) * scale)
    distance = enlarge(radius - np.hypot(x - hub[0], y - hub[1]), shape)
    transmission = 0.04 + 0.96 * step(distance - 3 * scale, 3 * scale)
    return transmission * (1 - 0.5 * ridge(distance, 12 * scale, 3 * scale)), distance, middle


def drop_in_well(
    rng: np.random.Generator, shape: tuple[int, int], scale: float, centre: np.ndarray, close: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A drop near `centre` float[2]; `close` fills most of the view. Returns (transmission, distance to its rim)."""
    x, y = grid(shape, 2)
    radius = scale * (rng.uniform(330, 470) if close else rng.uniform(215, 330))
    heading = rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(0, 60) if close or rng.random() < 0.65 else rng.uniform(90, 190)  # some lean on the wall
    hub = centre + np.array([np.cos(heading), np.sin(heading)], np.float32) * shift * scale
    dx, dy = x - hub[0], y - hub[1]
    away, angle = cv2.cartToPolar(*np.broadcast_arrays(dx, dy), angleInDegrees=True)
    profile = 1 + _loop(rng, range(2, 6), 0.13)
    tenth = (angle * 10).astype(np.int32)
    rim = (profile * np.float32(radius))[tenth]
    stretch = 1 / np.hypot(1, np.gradient(profile) * (1800 / np.pi) / profile).astype(np.float32)
    distance = enlarge((rim - away) * stretch[tenth], shape)
    # A lens: brighter in the middle, dark where its surface is steep, and that unevenly around the rim.
    dark = np.clip(rng.uniform(0.0, 0.6) + _loop(rng, range(1, 4), 0.55), 0.03, 0.97)[tenth]
    wide = np.clip(rng.uniform(12, 55) + _loop(rng, range(1, 4), 30), 6, 110)[tenth] * np.float32(scale)
    # What depends on the angle fades towards the middle, where all angles meet.
    body = rng.uniform(0.72, 0.98) * (
        1 - dark * np.exp(-np.maximum(rim - away, 0) / wide) * np.minimum(away / rim, 1) ** 2
    )
    body *= 1 + rng.uniform(0, 0.28) * np.exp(-((away / (radius * rng.uniform(0.3, 0.6))) ** 2))
    if rng.random() < 0.4:  # schlieren, radial from the middle
        polar = cv2.resize(rng.standard_normal((9, 120), np.float32), (361, 64), interpolation=cv2.INTER_CUBIC)
        rays = cv2.remap(polar, angle, np.minimum(away * np.float32(63 / radius), 63), cv2.INTER_LINEAR)
        body *= 1 + np.float32(rng.uniform(0.004, 0.016)) * rays
    inside = step(distance, 1.2 * scale)
    lens = 1 + (enlarge(body, shape) - 1) * inside
    depth = enlarge(0.25 + 0.6 * dark, shape)
    lens *= 1 - depth * ridge(distance, 0, rng.uniform(1.8, 3.5) * scale)
    lens *= 1 + 0.12 * ridge(distance, -4 * scale, 4 * scale)
    return lens, distance
