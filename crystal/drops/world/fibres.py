"""What lies about in and beside drops: fibres, curled hairs, scratches, dust, dried smears, shadows of the optics."""

import cv2
import numpy as np

from crystal.drops.stage import Stage, inside, log_uniform, noise, press, step


def _anywhere(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.uniform(0.03, 0.97, 2) * [shape[1], shape[0]]


def _curled(rng: np.random.Generator, start: np.ndarray, length: float) -> np.ndarray:
    """A hair's line int32[n, 2] in 1/16 pixels: its curvature wanders, so it bends, hooks and loops."""
    steps = 60
    bend = np.cumsum(rng.normal(0, rng.uniform(0.01, 0.05), steps)) + rng.normal(0, 0.06)
    turns = rng.uniform(0, 6.28) + np.cumsum(bend)
    walk = np.cumsum(np.c_[np.cos(turns), np.sin(turns)], 0) * length / steps
    return np.round((start + walk - walk[steps // 2]) * 16).astype(np.int32)


def _darken(rng: np.random.Generator, stage: Stage, ink: np.ndarray, soft: float, strength: float) -> None:
    """Darken by ink uint8[h, w], blurred by `soft` pixels, in place; now and then with a bright seam beside it."""
    blurred = cv2.GaussianBlur(ink, (0, 0), max(soft, 0.4)).astype(np.float32) * np.float32(strength / 255)
    if rng.random() < 0.4:
        blurred -= 0.3 * np.roll(blurred, rng.integers(-3, 4, 2), (0, 1))
    stage.transmission[:] *= np.clip(1 - blurred, 0.04, 1.3)


def hairs(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """One to five fibres or curled hairs, in focus or far from it, anywhere, also across a drop's edge, in place."""
    ink = np.zeros(stage.drop.shape, np.uint8)
    place = _anywhere(rng, stage.drop.shape)
    for _ in range(int(rng.integers(1, 6))):
        if rng.random() < 0.6:
            place = _anywhere(rng, stage.drop.shape)
        line = _curled(rng, place + rng.normal(0, 15, 2) * scale, log_uniform(rng, 30, 600) * scale)
        width = max(1, round(rng.uniform(1, 8) * scale))
        cv2.polylines(ink, [line], False, int(rng.integers(90, 255)), width, cv2.LINE_AA, 4)
        if width > 4 and rng.random() < 0.5:  # a hollow fibre: two dark edges
            cv2.polylines(ink, [line], False, 60, max(1, width // 2), cv2.LINE_AA, 4)
    soft = rng.choice([0.8, 1.8, 7.0], p=[0.55, 0.3, 0.15]) * scale
    _darken(rng, stage, ink, soft, rng.uniform(0.35, 0.95))


def scratches(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Straight thin lines right across, or a bundle of short ones that run alike, in place."""
    ink = np.zeros(stage.drop.shape, np.uint8)
    bundle = rng.random() < 0.35
    place, toward = _anywhere(rng, stage.drop.shape), rng.uniform(0, 6.28)
    for _ in range(int(rng.integers(5, 25)) if bundle else int(rng.integers(1, 4))):
        length = rng.uniform(20, 120) * scale if bundle else rng.uniform(150, 1300) * scale
        heading = toward + rng.normal(0, 0.18) if bundle else rng.uniform(0, 6.28)
        start = place + rng.normal(0, 55, 2) * scale if bundle else _anywhere(rng, stage.drop.shape)
        end = start + length * np.array([np.cos(heading), np.sin(heading)])
        ends = np.round(np.array([start, end]) * 16).astype(np.int32).tolist()
        cv2.line(ink, ends[0], ends[1], int(rng.integers(40, 220)), max(1, round(rng.uniform(0.5, 2) * scale)), 16, 4)
    bright = rng.random() < 0.25
    _darken(rng, stage, ink, rng.uniform(0.5, 1.4) * scale, -0.25 if bright else rng.uniform(0.25, 0.8))


def dust(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Grains of dust anywhere, sharp ones and blurred ones, single and in small heaps, in place."""
    for soft in (0.6, 2.2):
        ink = np.zeros(stage.drop.shape, np.uint8)
        number = int(log_uniform(rng, 1, 60))
        heap = _anywhere(rng, stage.drop.shape) if rng.random() < 0.3 else None
        for _ in range(number):
            place = _anywhere(rng, stage.drop.shape) if heap is None else heap + rng.normal(0, 60, 2) * scale
            angles = np.arange(12) * 2 * np.pi / 12
            reach = np.exp(rng.uniform(-0.2, 1.7) + rng.normal(0, 0.35, 12)) * scale  # ragged, unlike a crystal
            blob = np.c_[np.cos(angles) * rng.uniform(0.4, 1), np.sin(angles)] * reach[:, None]
            points = np.round((place + blob) * 16).astype(np.int32)
            cv2.fillPoly(ink, [points], int(rng.integers(70, 255)), cv2.LINE_AA, 4)
        _darken(rng, stage, ink, soft * scale, rng.uniform(0.5, 0.95))


def shadows(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Round faint shadows and rings of dirt far out of focus, somewhere in the optics, in place."""
    for _ in range(int(rng.integers(1, 9))):
        radius = rng.uniform(8, 40) * scale
        half = int(1.8 * radius) + 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        away = np.hypot(x, y) / np.float32(radius)
        disc = 1 - step(away - 1, rng.uniform(0.1, 0.5))
        ring = np.exp(-(((away - 0.9) / 0.2) ** 2))
        patch = 1 - rng.uniform(0.02, 0.12) * disc - rng.uniform(-0.04, 0.05) * ring
        press(stage.transmission, patch.astype(np.float32), *_anywhere(rng, stage.drop.shape))


def smear(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Dried liquid beside the drop, in place: a crumpled sickle full of dark wrinkles and bright facets."""
    shape = stage.drop.shape
    place = inside(rng, np.where((stage.drop < -15 * scale) & (stage.transmission > 0.35), 1.0, 0.0), 0.5)
    if place is None:
        return
    half = int(rng.uniform(50, 150) * scale)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    turn = rng.uniform(0, 6.28)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    across = across + rng.uniform(-1.2, 1.2) * along**2 / half  # a sickle
    edge = 1 - np.hypot(along / (0.9 * half), across / (rng.uniform(0.22, 0.5) * half))
    inner = step(edge + 0.12 * noise(rng, x.shape, 0.25 * half), 0.06)
    stretched = noise(rng, (x.shape[0] * 3, x.shape[1]), 0.13 * half)[::3] + 0.6 * noise(rng, x.shape, 0.07 * half)
    wrinkles = np.clip(1 - np.abs(stretched) * np.float32(1 / 0.25), 0, 1)
    relief = stretched - np.roll(stretched, 2, (0, 1))
    patch = 1 - inner * (rng.uniform(0.25, 0.6) * wrinkles + rng.uniform(0.05, 0.3)) + inner * 0.25 * relief
    patch = patch * (1 - 0.6 * np.clip(1 - np.abs(edge) * np.float32(1 / 0.05), 0, 1))
    y0, x0 = int(place[1]) - half, int(place[0]) - half
    a, b, c, d = max(y0, 0), max(x0, 0), min(y0 + 2 * half + 1, shape[0]), min(x0 + 2 * half + 1, shape[1])
    if a < c and b < d:
        cut = np.clip(patch, 0.05, 1.35)[a - y0 : c - y0, b - x0 : d - x0]
        stage.transmission[a:c, b:d] *= np.where(stage.drop[a:c, b:d] < -2, cut, 1)
