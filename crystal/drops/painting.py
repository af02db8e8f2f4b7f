"""The stage on which crystals lie: well, drop, what is in it besides crystals, light and camera.

A micrograph in transmitted light is a product: what each layer lets through, times the light. So every painter here
multiplies into one transmission float32[h, w] (1 = clear, 0 = black). Colour is smooth, so it lives in `tint`
float32[h/4, w/4, 3] and is enlarged at the end. Smooth fields are computed small and enlarged too: that is most of the
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


def _ridge(distance: np.ndarray, at: float, width: float) -> np.ndarray:
    """A line at `distance` = at: 1 on it, 0 beyond `width` pixels."""
    return np.clip(1 - np.abs(distance - np.float32(at)) * np.float32(1 / width), 0, 1)


def _grid(shape: tuple[int, int], cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (x, y) of the middles of `cell`-pixel cells, broadcastable float32."""
    rows, columns = -(-shape[0] // cell), -(-shape[1] // cell)
    x = (np.arange(columns, dtype=np.float32) + 0.5) * cell
    y = (np.arange(rows, dtype=np.float32) + 0.5) * cell
    return x[None], y[:, None]


def _middle(shape: tuple[int, int]) -> np.ndarray:
    """The image's middle (x, y), float32."""
    return np.array([shape[1] / 2, shape[0] / 2], np.float32)


def _enlarge(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A field on a coarse grid brought to full size float32."""
    return cv2.resize(field.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


def _loop(rng: np.random.Generator, harmonics: range, strength: float) -> np.ndarray:
    """A smooth closed curve float32[3601] over the angle in tenths of a degree, around 0."""
    angle = np.radians(np.arange(3601) / 10)
    waves = [rng.normal(0, strength / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in harmonics]
    return np.sum(waves, axis=0).astype(np.float32)


def round_well(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A round well in a moulded plate: (transmission, distance to its wall, centre)."""
    x, y = _grid(shape, 2)
    centre = _middle(shape) + rng.normal(0, 25, 2).astype(np.float32) * scale
    radius = rng.uniform(345, 410) * scale
    dx, dy = x - centre[0], y - centre[1]
    distance = _enlarge(radius - np.hypot(dx, dy), shape)
    # The dark ring is a sloping wall; its outer edge is soft and often squarish.
    power = rng.uniform(2, 4)
    outer = _enlarge((np.abs(dx) ** power + np.abs(dy) ** power) ** (1 / power), shape)
    outer = outer - np.float32(radius + rng.uniform(85, 135) * scale)
    ring = rng.uniform(0.015, 0.06) * (1 + 0.35 * noise(rng, shape, 3 * scale))
    plate = rng.uniform(0.3, 0.8) * (1 + 0.05 * noise(rng, shape, 90 * scale))
    streaks = cv2.resize(
        rng.standard_normal((1, shape[1] // 6), np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR
    )
    plate = plate * (1 + 0.03 * streaks)
    wall = ring + (plate - ring) * step(outer, rng.uniform(4, 40) * scale)
    bed = 1 - rng.uniform(0.1, 0.7) * step(
        _enlarge(np.hypot(dx - rng.normal(0, 14), dy - rng.normal(0, 14)) - radius + 18, shape), 7 * scale
    )
    transmission = wall + (bed - wall) * step(distance, 1.6 * scale)
    line = rng.uniform(4, 10) * scale  # the lip: a bright line between two dark ones
    transmission *= 1 - 0.75 * _ridge(distance, line, 2.2 * scale)
    transmission += rng.uniform(0.1, 0.5) * _ridge(distance, line - 4 * scale, 3 * scale)
    if rng.random() < 0.4:  # a shelf cut off on one side
        edge = (x - centre[0]) * (1 if rng.random() < 0.5 else -1) + (y - centre[1]) * rng.normal(0, 0.03)
        edge = _enlarge(edge, shape) - np.float32(radius * rng.uniform(0.72, 0.86))
        transmission *= 1 - rng.uniform(0.5, 0.9) * step(edge - 14 * scale, 14 * scale) * step(distance, 3)
        distance = np.minimum(distance, -edge)
    return transmission, distance, centre


def square_well(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square, rough-walled well with round corners: (transmission, distance to its wall, centre)."""
    x, y = _grid(shape, 2)
    centre = _middle(shape) + rng.normal(0, 20, 2).astype(np.float32) * scale
    half, corner = rng.uniform(365, 430) * scale, rng.uniform(20, 50) * scale
    dx, dy = np.abs(x - centre[0]) - half + corner, np.abs(y - centre[1]) - half * rng.uniform(0.92, 1) + corner
    distance = corner - np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) - np.minimum(np.maximum(dx, dy), 0)
    distance = _enlarge(distance, shape) + rng.uniform(0.3, 1.3) * scale * (
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
    x, y = _grid(shape, 2)
    middle = _middle(shape)
    heading = rng.uniform(0, 2 * np.pi)
    away = np.array([np.cos(heading), np.sin(heading)], np.float32)
    radius = rng.uniform(700, 1100) * scale
    hub = middle - away * (radius - rng.uniform(380, 700) * scale)
    distance = _enlarge(radius - np.hypot(x - hub[0], y - hub[1]), shape)
    transmission = 0.04 + 0.96 * step(distance - 3 * scale, 3 * scale)
    return transmission * (1 - 0.5 * _ridge(distance, 12 * scale, 3 * scale)), distance, middle


def drop(
    rng: np.random.Generator, shape: tuple[int, int], scale: float, centre: np.ndarray, close: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A drop near `centre` float[2]; `close` fills most of the view. Returns (transmission, distance to its rim)."""
    x, y = _grid(shape, 2)
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
    distance = _enlarge((rim - away) * stretch[tenth], shape)
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
    lens = 1 + (_enlarge(body, shape) - 1) * inside
    depth = _enlarge(0.25 + 0.6 * dark, shape)
    lens *= 1 - depth * _ridge(distance, 0, rng.uniform(1.8, 3.5) * scale)
    lens *= 1 + 0.12 * _ridge(distance, -4 * scale, 4 * scale)
    return lens, distance


def precipitate(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Grains in part of the drop, from a faint dusting to brown clumps; written into the stage."""
    shape = stage.drop.shape
    region = step(noise(rng, shape, rng.uniform(90, 220) * scale) + rng.uniform(-0.4, 1), 0.8) * step(
        stage.drop - 6, 10
    )
    grains = noise(rng, shape, float(rng.choice([1.7, 2.5, 4.0])) * scale)
    if rng.random() < 0.4:  # an orange-peel skin: lit from one side
        grains = grains - np.roll(grains, 2, (0, 1))
        stage.transmission[:] *= 1 + rng.uniform(0.03, 0.09) * grains * region
        return
    grains = np.maximum(grains - rng.uniform(0.6, 1.6), 0)
    stage.transmission[:] *= 1 - np.minimum(rng.uniform(0.12, 0.4) * grains, 0.7) * region
    if rng.random() < 0.3:
        heap = noise(rng, shape, 70 * scale) + 0.35 * noise(rng, shape, 18 * scale)
        clump = step(heap - 1.4, 0.5) * step(stage.drop - 20, 20)
        stage.transmission[:] *= 1 - rng.uniform(0.2, 0.5) * clump * (1 + 0.3 * noise(rng, shape, 4 * scale))
        small = cv2.resize(clump, stage.tint.shape[1::-1], interpolation=cv2.INTER_AREA)
        stage.tint[:] *= 1 - small[..., None] * np.array([0.0, 0.08, 0.22], np.float32)


def _press(transmission: np.ndarray, patch: np.ndarray, x: float, y: float) -> None:
    """Multiply a patch centred at (x, y) into the transmission, cut at the image's edges."""
    height, width = patch.shape
    left, top = round(x - width / 2), round(y - height / 2)
    a, b = max(top, 0), max(left, 0)
    c, d = min(top + height, transmission.shape[0]), min(left + width, transmission.shape[1])
    if a < c and b < d:
        transmission[a:c, b:d] *= patch[a - top : c - top, b - left : d - left]


def bubble(rng: np.random.Generator, radius: float, faint: float) -> np.ndarray:
    """A bubble or oil droplet, a float32 patch: dark ring, bright middle, glint; `faint` 0 (black ring) to 1 (none)."""
    side = int(np.ceil(radius * 1.3)) * 2 + 1
    x, y = _grid((side, side), 1)
    away = np.hypot(x - side / 2, y - side / 2) / np.float32(radius)
    blur = max(0.8 / radius, rng.uniform(0.03, 0.15))
    ring = step(away - rng.uniform(0.62, 0.85), blur + 0.08) * (1 - step(away - 1, blur))
    patch = 1 - (1 - faint) * rng.uniform(0.7, 0.95) * ring + 0.15 * np.exp(-((away / 0.4) ** 2))
    glint = np.hypot(x - side / 2 - 0.3 * radius, y - side / 2 + 0.3 * radius) / np.float32(radius)
    return (patch + 0.3 * np.exp(-((glint / 0.12) ** 2))).astype(np.float32)


def _inside(rng: np.random.Generator, distance: np.ndarray, margin: float) -> np.ndarray | None:
    """A random point (x, y) where the distance exceeds the margin, or None where there is none."""
    rows, columns = np.nonzero(distance[::8, ::8] > margin)
    if not len(rows):
        return None
    k = rng.integers(len(rows))
    return np.array([columns[k], rows[k]]) * 8 + rng.uniform(0, 8, 2)


def bubbles(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """One to three air bubbles, or a shower of oil droplets where the drop has separated into two phases."""
    if rng.random() < 0.5:
        number, low, high, faint = int(rng.integers(1, 4)), 8, 45, 0.0
    else:
        number, low, high, faint = int(rng.integers(15, 90)), 3, 11, rng.uniform(0.3, 0.75)
    for _ in range(number):
        point = _inside(rng, stage.drop, 8)
        if point is not None:
            _press(
                stage.transmission, bubble(rng, np.exp(rng.uniform(np.log(low), np.log(high))) * scale, faint), *point
            )


def _curve(rng: np.random.Generator, start: np.ndarray, length: float, bend: float) -> np.ndarray:
    """A wandering line int32[n, 2] in 1/16 pixels of about `length` pixels; bend 0 = straight."""
    steps = 24
    turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend) + rng.normal(0, 0.5 * bend, steps))
    walk = np.cumsum(np.c_[np.cos(turns), np.sin(turns)], 0) * length / steps
    return np.round((start + walk - walk[steps // 2]) * 16).astype(np.int32)


def skin(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Folds of a skin and borders between phases: soft arcs inside the drop, darker on one side."""
    ink = np.zeros(stage.drop.shape, np.uint8)
    for _ in range(int(rng.integers(1, 5))):
        point = _inside(rng, stage.drop, 60 * scale)
        if point is not None:
            curve = _curve(rng, point, rng.uniform(150, 520) * scale, 0.12)
            cv2.polylines(
                ink,
                [curve],
                False,
                int(rng.integers(60, 190)),
                max(1, round(rng.uniform(1, 5) * scale)),
                cv2.LINE_AA,
                4,
            )
    soft = cv2.GaussianBlur(ink, (0, 0), rng.uniform(1.0, 3.5) * scale) * np.float32(1 / 255)
    glow = np.roll(soft, rng.integers(-4, 5, 2), (0, 1))
    stage.transmission[:] *= 1 - (0.6 * soft - 0.25 * glow) * step(stage.drop - 5, 5)


def litter(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Dust, fibres and scratches over the whole image, outside the drop as well; each in its own depth."""
    shape = stage.drop.shape
    size = np.array([shape[1], shape[0]])
    for sigma in (0.6, 2.5):
        ink = np.zeros(shape, np.uint8)
        for _ in range(int(rng.integers(2, 28))):
            centre = np.round(rng.uniform(0, 1, 2) * size * 16).astype(int).tolist()
            axes = np.exp(rng.uniform(np.log(0.8), np.log(4.5), 2)) * scale * 16
            level = int(rng.integers(70, 220))
            cv2.ellipse(
                ink, centre, np.round(axes).astype(int).tolist(), rng.uniform(0, 180), 0, 360, level, -1, cv2.LINE_AA, 4
            )
        if rng.random() < 0.35:
            fibre = _curve(rng, rng.uniform(0.1, 0.9, 2) * size, rng.uniform(120, 500) * scale, 0.1)
            cv2.polylines(
                ink,
                [fibre],
                False,
                int(rng.integers(90, 220)),
                max(1, round(rng.uniform(1, 3) * scale)),
                cv2.LINE_AA,
                4,
            )
        if rng.random() < 0.3:
            scratch = _curve(rng, rng.uniform(0.1, 0.9, 2) * size, rng.uniform(150, 900) * scale, 0.008)
            cv2.polylines(ink, [scratch], False, int(rng.integers(60, 170)), 1, cv2.LINE_AA, 4)
        stage.transmission[:] *= 1 - np.float32(1 / 255) * cv2.GaussianBlur(ink, (0, 0), sigma * scale)


def set_stage(rng: np.random.Generator, shape: tuple[int, int], *, close: bool) -> Stage:
    """A well with its drop and everything in it but crystals; `close` asks for a drop that fills the view."""
    scale = min(shape[0] / 800, shape[1] / 1000)
    builders = (open_well, round_well, square_well)
    weights = (0.6, 0.25, 0.15) if close else (0.1, 0.55, 0.35)
    transmission, well, centre = builders[int(rng.choice(3, p=weights))](rng, shape, scale)
    lens, rim = drop(rng, shape, scale, centre, close)
    transmission = transmission * (1 + (lens - 1) * step(well, 3))
    coarse = (-(-shape[0] // COARSE), -(-shape[1] // COARSE))
    style = rng.choice(["grey", "neutral", "polarised"], p=[0.3, 0.4, 0.3])
    tint = np.ones((*coarse, 3), np.float32)
    if style != "grey":
        tint *= (1 + rng.normal(0, 0.03, 3)) * (1.0, 1.0, rng.uniform(0.86, 1.0))
    if style == "polarised":  # green and pink trade places slowly across the field
        slow = np.tanh(noise(rng, coarse, rng.uniform(300, 700) * scale / COARSE))[..., None]
        tint *= (
            1
            + rng.uniform(0.03, 0.09) * slow * np.array([0.8, -1.0, 0.5], np.float32)
            + np.array([0.02, -0.01, 0.05], np.float32)
        )
    room = np.minimum(rim, well)
    stage = Stage(transmission.astype(np.float32), tint.astype(np.float32), room, bool(style == "polarised"))
    for painter, chance in ((precipitate, 0.45), (precipitate, 0.15), (skin, 0.22), (bubbles, 0.25)):
        if rng.random() < chance:
            painter(rng, stage, scale)
    litter(rng, stage, scale)
    return stage


def photograph(rng: np.random.Generator, stage: Stage, light: float) -> np.ndarray:
    """The stage photographed, uint8[h, w, 3] RGB; `light` 0 = bright, even, clean, to 1 = dim, uneven, hazy, noisy."""
    shape = stage.transmission.shape
    scale = min(shape[0] / 800, shape[1] / 1000)
    x, y = _grid(shape, COARSE)
    x, y = x / shape[1] - 0.5, y / shape[0] - 0.5
    heading = rng.uniform(0, 2 * np.pi)
    lamp = rng.normal(0, 0.12, 2)
    tilt = (x * np.cos(heading) + y * np.sin(heading)) * rng.uniform(0.6, 1.0)
    corners = ((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) * rng.uniform(1.4, 2.2)
    blotches = noise(rng, stage.tint.shape[:2], 220 * scale / COARSE) * rng.uniform(0.02, 0.06)
    uneven = 0.12 + 0.95 * light + 0.5 * light**2
    lit = np.exp(-uneven * (corners + tilt) + light * blotches)
    exposure = rng.uniform(0.74, 0.9) * (1 - 0.42 * light)
    haze = 0.01 + 0.22 * light * rng.uniform(0.6, 1.0)
    lit *= exposure / lit.mean()
    # Highlights roll off instead of clipping, as a camera's tone curve does.
    lit = np.where(lit > 0.75, 1 - 0.25 * np.exp(-np.maximum(lit - 0.75, 0) / 0.25), lit)
    field = lit[..., None] * stage.tint
    field = cv2.resize(field.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    veiled = stage.transmission * np.float32(255 * (1 - haze)) + np.float32(255 * haze)
    field *= veiled[..., None]
    # Most sensor noise is shared by the colours, since a Bayer pattern is filled in from its neighbours.
    field += rng.standard_normal((*shape, 1), np.float32) * np.float32(1.2 + 4.5 * light**1.5) + np.float32(0.5)
    return np.clip(field, 0, 255, out=field).astype(np.uint8)
