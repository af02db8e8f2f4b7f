"""The plate round a drop: round, squarish and square wells with their walls, edges of the plate, close views, fields.

All is computed on a grid of half the size, since nothing here is sharper than two pixels. Lengths are in pixels of a
picture of 1280x960 times `scale`.
"""

from typing import NamedTuple

import numpy as np

from crystal.drops.stage import enlarge, grid, noise, ridge, step

HALF = 2  # pixels a cell of the grid
KINDS = ("moulded", "grainy", "soft", "square", "close", "field")
SHARES = (0.27, 0.1, 0.26, 0.18, 0.1, 0.09)


class Plate(NamedTuple):
    """A plate without a drop.

    transmission: float32[h, w].   distance: float32[h, w], pixels to the wall, positive inside the well.
    centre: float[2], (x, y) of the well.   radius: half the well's width, in pixels; of a field, half the picture's.
    kind: one of KINDS.
    """

    transmission: np.ndarray
    distance: np.ndarray
    centre: np.ndarray
    radius: float
    kind: str


def _rounded(dx: np.ndarray, dy: np.ndarray, power: float) -> np.ndarray:
    """Distance from the middle whose circles are round (power 2) to square (large)."""
    if power < 2.05:
        return np.hypot(dx, dy)
    return (np.abs(dx) ** np.float32(power) + np.abs(dy) ** np.float32(power)) ** np.float32(1 / power)


def _streaks(rng: np.random.Generator, shape: tuple[int, int], cell: float, upright: bool) -> np.ndarray:
    """Grain along one direction, float32[shape] of about unit variance: what moulding and sawing leave."""
    length = shape[1] if upright else shape[0]
    line = np.zeros(length, np.float32)
    for size in (cell, 3 * cell, 12 * cell):
        few = rng.standard_normal(int(length / size) + 3, np.float32)
        line += np.interp(np.arange(length) / size, np.arange(len(few)), few).astype(np.float32)
    line *= np.float32(0.6)
    return np.broadcast_to(line[None] if upright else line[:, None], shape)


def _plate_edge(rng: np.random.Generator, light: np.ndarray, x: np.ndarray, scale: float, *, grained: bool) -> None:
    """A rib or the edge of the plate at one side, in place: grained like wood or plain, with dark lines along it."""
    width = x.shape[1] * HALF
    left = rng.random() < 0.7
    at = rng.uniform(0.02, 0.17) * width
    depth = (at - x) if left else (x - (width - at))  # positive on the rib
    depth = depth + rng.normal(0, 4) * scale * noise(rng, light.shape, 260 * scale / HALF)
    level = rng.uniform(0.2, 0.75)
    texture = 1 + rng.uniform(0.08, 0.3) * _streaks(rng, light.shape, 3 * scale, upright=True) if grained else 1.0
    on = step(depth, rng.uniform(1.5, 9) * scale)
    light += on * (level * texture - light)
    for _ in range(int(rng.integers(1, 4))):
        line = ridge(depth, rng.uniform(-10, 0.8 * at), rng.uniform(3, 22) * scale)
        light *= 1 - rng.uniform(0.2, 0.8) * line


def _walled(rng: np.random.Generator, shape: tuple[int, int], scale: float, kind: str) -> Plate:
    """A round or squarish well: "moulded" with a black ring and a lip, "grainy", or "soft" with a blurred dark wall."""
    x, y = grid(shape, HALF)
    small = (-(-shape[0] // HALF), -(-shape[1] // HALF))
    soft = kind == "soft"
    radius = rng.uniform(440, 640) * scale if soft else rng.uniform(360, 490) * scale
    centre = np.array([shape[1], shape[0]]) / 2 + rng.normal(0, 45, 2) * scale + [rng.uniform(0, 190) * scale * soft, 0]
    dx, dy = x - np.float32(centre[0]), (y - np.float32(centre[1])) * np.float32(rng.uniform(0.97, 1.03))
    power = rng.uniform(2.2, 3.6) if soft or rng.random() < 0.3 else 2.0
    inner = np.float32(radius) - _rounded(dx, dy, power)
    ring = rng.uniform(90, 200) * scale
    outer = _rounded(dx, dy, rng.uniform(2, 4)) - np.float32(radius + ring)
    dark = np.full(small, rng.uniform(0.01, 0.07) + 0.06 * soft, np.float32)
    if kind == "grainy":
        grains = np.maximum(noise(rng, small, 2.5 * scale) + rng.uniform(-1.4, -0.4), 0)
        dark = dark + rng.uniform(0.08, 0.3) * grains
    outside = rng.uniform(0.2, 0.85) * (1 + 0.06 * noise(rng, small, 60 * scale))
    if rng.random() < 0.6:
        outside = outside * (1 + rng.uniform(0.01, 0.06) * _streaks(rng, small, 2.5 * scale, rng.random() < 0.7))
    light = dark + (outside - dark) * step(outer, rng.uniform(2, 45) * scale)
    light = light.astype(np.float32)
    if rng.random() < 0.75:
        _plate_edge(rng, light, np.broadcast_to(x, small), scale, grained=soft or rng.random() < 0.4)
    blur = rng.uniform(25, 110) * scale if soft else rng.uniform(1.2, 4) * scale
    bed = 1 - rng.uniform(0, 0.35) * (1 - step(inner - 30 * scale, rng.uniform(20, 90) * scale))
    inside = step(inner - (0.6 * blur if soft else 0), blur)
    light = light * (1 - inside) + bed * inside
    if not soft:  # the lip: a bright line between two dark ones, not everywhere alike
        turn = 0.5 + 0.5 * np.cos(np.arctan2(dy, dx) + np.float32(rng.uniform(0, 6.28)))
        at = rng.uniform(3, 12) * scale
        light *= 1 - rng.uniform(0.4, 0.85) * ridge(inner, at, rng.uniform(2.5, 5) * scale)
        light += rng.uniform(0.1, 0.7) * (0.3 + 0.7 * turn) * ridge(inner, at - 6 * scale, rng.uniform(3, 7) * scale)
        if rng.random() < 0.5:
            crescent = ridge(inner, rng.uniform(14, 50) * scale, rng.uniform(12, 45) * scale)
            light *= 1 - rng.uniform(0.3, 0.8) * crescent * np.clip(2.2 * turn - 1.2, 0, 1)
    distance = inner - (0.35 * blur if soft else 0)
    if rng.random() < 0.45:  # a shelf cut off on one side: shaded, then black
        side = rng.choice(4)
        along = (dx, -dx, dy, -dy)[side] + (dy, dy, dx, dx)[side] * np.float32(rng.normal(0, 0.02))
        beyond = along - np.float32(radius * rng.uniform(0.72, 0.95))
        if rng.random() < 0.7:
            light *= 1 - rng.uniform(0.1, 0.5) * step(beyond + 35 * scale, rng.uniform(4, 25) * scale) * inside
        light *= 1 - rng.uniform(0.7, 0.97) * step(beyond, rng.uniform(2, 16) * scale) * inside
        distance = np.minimum(distance, -beyond)
    return Plate(enlarge(light, shape), enlarge(distance, shape), centre, float(radius), kind)


def _square(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Plate:
    """A square well with rough black walls and debris in their corners."""
    x, y = grid(shape, HALF)
    small = (-(-shape[0] // HALF), -(-shape[1] // HALF))
    half = rng.uniform(400, 520) * scale
    centre = np.array([shape[1], shape[0]]) / 2 + rng.normal(0, 30, 2) * scale
    corner = rng.uniform(15, 60) * scale
    dx = np.abs(x - np.float32(centre[0])) - np.float32(half - corner)
    dy = np.abs(y - np.float32(centre[1])) - np.float32(min(half * rng.uniform(0.9, 1), 0.49 * shape[0]) - corner)
    distance = corner - np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) - np.minimum(np.maximum(dx, dy), 0)
    ragged = noise(rng, small, 5 * scale) + 1.5 * noise(rng, small, 17 * scale)
    distance = distance + rng.uniform(0.4, 2.0) * scale * ragged
    shine = np.maximum(noise(rng, small, 2 * scale) * np.maximum(noise(rng, small, 45 * scale), 0) - 0.6, 0)
    wall = rng.uniform(0.01, 0.05) + rng.uniform(0.05, 0.3) * shine
    if rng.random() < 0.4:  # walls that let some light through
        wall = wall + rng.uniform(0.05, 0.3) * np.maximum(noise(rng, small, 200 * scale), 0)
        wall = wall * (1 + 0.1 * _streaks(rng, small, 3 * scale, rng.random() < 0.5))
    bed = 1 - rng.uniform(0.05, 0.4) * (1 - step(distance, rng.uniform(8, 40) * scale))
    light = wall + (bed - wall) * step(distance, rng.uniform(2, 5) * scale)
    return Plate(enlarge(light, shape), enlarge(distance, shape), centre, float(half), "square")


def _close(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Plate:
    """A close look at the floor of a well: the wall at most crosses one side."""
    x, y = grid(shape, HALF)
    middle = np.array([shape[1], shape[0]]) / 2
    heading = rng.uniform(0, 2 * np.pi)
    radius = rng.uniform(800, 1500) * scale
    away = np.array([np.cos(heading), np.sin(heading)])
    hub = middle - away * (radius - rng.uniform(450, 900) * scale)
    inner = np.float32(radius) - np.hypot(x - np.float32(hub[0]), y - np.float32(hub[1]))
    soft = rng.uniform(2, 60) * scale
    light = rng.uniform(0.02, 0.1) + 0.95 * step(inner - soft, soft)
    light *= 1 - rng.uniform(0, 0.6) * ridge(inner, 3 * soft, 4 * scale)
    return Plate(enlarge(light, shape), enlarge(inner - soft, shape), middle, float(560 * scale), "close")


def _field(shape: tuple[int, int]) -> Plate:
    """Nothing but light."""
    far = np.full(shape, 1e4, np.float32)
    centre = np.array([shape[1], shape[0]]) / 2
    return Plate(np.ones(shape, np.float32), far, centre, float(0.5 * min(shape)), "field")


def draw_plate(rng: np.random.Generator, shape: tuple[int, int], scale: float, kind: str) -> Plate:
    """A plate of one of KINDS.

    Args:
        rng: where the chances come from.
        shape: (height, width) of the picture, in pixels.
        scale: the picture's size in units of 1280x960.
        kind: one of KINDS.

    Raises:
        ValueError: there is no such kind.
    """
    if kind in ("moulded", "grainy", "soft"):
        plate = _walled(rng, shape, scale, kind)
    elif kind == "square":
        plate = _square(rng, shape, scale)
    elif kind == "close":
        plate = _close(rng, shape, scale)
    elif kind == "field":
        plate = _field(shape)
    else:
        raise ValueError(f"unknown kind of plate {kind!r}; choose one of {', '.join(KINDS)}")
    return plate._replace(transmission=np.clip(plate.transmission, 0.005, 1.3).astype(np.float32))
