"""Skins with folds, uneven surfaces, borders between two phases, bubbles and droplets of oil."""

import cv2
import numpy as np

from crystal.drops.stage import COARSE, Stage, curve, enlarge, grid, inside, log_uniform, noise, press, ridge, step
from crystal.drops.world.precipitate import tint_brown


def folds(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """A skin with folds, in place: long soft arcs, dark on one side and bright on the other, that meet and fork."""
    shape = stage.drop.shape
    ink = np.zeros(shape, np.uint8)
    place = inside(rng, stage.drop, 20 * scale)
    if place is None:
        return
    for _ in range(int(rng.integers(2, 10))):
        if rng.random() < 0.5:
            other = inside(rng, stage.drop, 20 * scale)
            place = place if other is None else other
        line = curve(rng, place, rng.uniform(80, 520) * scale, rng.uniform(0.05, 0.3))
        width = max(1, round(rng.uniform(1, 7) * scale))
        cv2.polylines(ink, [line], False, int(rng.integers(60, 230)), width, cv2.LINE_AA, 4)
    fading = np.clip(0.55 + 0.6 * noise(rng, shape, rng.uniform(30, 120) * scale), 0, 1)
    ink = (ink * fading).astype(np.uint8)
    sharp = cv2.GaussianBlur(ink, (0, 0), rng.uniform(0.8, 3) * scale).astype(np.float32)
    wide = cv2.GaussianBlur(ink, (0, 0), rng.uniform(4, 12) * scale).astype(np.float32)
    shift = rng.integers(-7, 8, 2)
    within = step(stage.drop - 4 * scale, 6 * scale) * np.float32(1 / 255)
    dark = (rng.uniform(0.3, 0.8) * sharp + rng.uniform(0.3, 1.2) * wide - 0.4 * np.roll(wide, shift, (0, 1))) * within
    stage.transmission[:] *= np.clip(1 - dark, 0.06, 1.3)
    if rng.random() < 0.6:
        tint_brown(stage, np.clip(wide * within * 3, 0, 1), rng.uniform(0.2, 1))


def swells(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """An uneven surface in place: broad soft hills and hollows that the light crosses from one side, without edges."""
    shape = stage.drop.shape
    cell = log_uniform(rng, 35, 220) * scale / COARSE
    hills = noise(rng, tuple(-(-side // COARSE) for side in shape), cell)
    down, across = np.gradient(hills * np.float32(cell))
    heading = rng.uniform(0, 2 * np.pi)
    slope = np.asarray(across * np.float32(np.cos(heading)) + down * np.float32(np.sin(heading)))
    light = enlarge(np.clip(1 + rng.uniform(0.03, 0.2) * slope, 0.3, 1.4), shape)
    within = step(stage.drop - 5 * scale, rng.uniform(5, 30) * scale)
    stage.transmission[:] *= 1 + (light - 1) * within


def phases(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """A second, clearer or darker liquid with a border of its own inside the drop, in place, at times with several."""
    shape = stage.drop.shape
    small = tuple(-(-side // COARSE) for side in shape)
    shrunk = cv2.resize(stage.drop, small[::-1], interpolation=cv2.INTER_AREA)
    deep = float(shrunk.max())
    if deep < 25 * scale or deep > 5000:
        return
    for _ in range(int(rng.integers(1, 3))):
        uneven = noise(rng, small, rng.uniform(0.5, 1.4) * deep / COARSE) * rng.uniform(0.05, 0.35)
        field = enlarge(shrunk / deep + uneven - rng.uniform(0.1, 0.6), shape) * np.float32(deep)
        turn = enlarge(np.clip(0.5 + 0.7 * noise(rng, small, deep / COARSE), 0, 1), shape)
        inner = step(field, rng.uniform(1.5, 8) * scale)
        wet = step(stage.drop - 3 * scale, 3 * scale)
        light = 1 + rng.uniform(-0.25, 0.2) * inner
        light = light * (1 - rng.uniform(0.1, 0.75) * turn * ridge(field, 0, rng.uniform(2, 9) * scale))
        light = light * (1 - rng.uniform(0, 0.5) * turn * inner * np.exp(-np.maximum(field, 0) / (18 * scale)))
        stage.transmission[:] *= 1 + (light - 1) * wet


def _bubble(rng: np.random.Generator, radius: float, faint: float) -> np.ndarray:
    """A bubble, float32 patch: a broad black ring round a bright centre; `faint` 0 (black) to 1 (nothing)."""
    half = int(np.ceil(radius * 1.3)) + 2
    x, y = grid((2 * half + 1, 2 * half + 1), 1)
    squeeze = rng.uniform(0.88, 1.12)
    away = np.hypot((x - half - 0.5) * squeeze, (y - half - 0.5) / squeeze) / np.float32(radius)
    soft = max(1.2 / radius, rng.uniform(0.03, 0.12))
    hollow = rng.uniform(0.25, 0.9)  # how much of it the bright centre takes
    ring = step(away - hollow, 0.5 * (1 - hollow) + soft) * (1 - step(away - 1, soft))
    centre = np.exp(-((away / max(hollow, 0.3)) ** 2)) * (1 - step(away - 0.95, soft))
    halo = ridge(away, 1.1, 0.12)
    patch = 1 - (1 - faint) * rng.uniform(0.7, 0.97) * ring
    patch = patch * (1 + (1 - faint) * rng.uniform(0, 0.4) * centre) * (1 + 0.1 * (1 - faint) * halo)
    if rng.random() < 0.4:
        glint = np.hypot(x - half - 0.35 * radius, y - half + 0.35 * radius) / np.float32(radius)
        patch = patch * (1 + 0.8 * np.exp(-((glint / 0.15) ** 2)))
    return patch.astype(np.float32)


def bubbles(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """One to five bubbles with a bright centre, anywhere in the drop or at its edge, in place."""
    for _ in range(int(rng.integers(1, 6))):
        place = inside(rng, stage.drop, 3 * scale)
        if place is not None:
            radius = log_uniform(rng, 5, 48) * scale
            press(stage.transmission, _bubble(rng, radius, rng.uniform(0, 0.4)), *place)


def rim_marks(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Teeth like a comb's, dark beads or bright points along a stretch of the drop's edge, in place."""
    near = (stage.drop[::2, ::2] > 0) & (stage.drop[::2, ::2] < 5 * scale)
    rows, columns = np.nonzero(near)
    if not len(rows):
        return
    points = np.c_[columns, rows] * 2.0
    middle = points[rng.integers(len(points))]
    points = points[np.hypot(*(points - middle).T) < rng.uniform(60, 400) * scale]
    chosen = points[rng.permutation(len(points))[: int(rng.integers(6, 70))]]
    kind = rng.choice(["teeth", "beads", "glints"])
    ink = np.zeros(stage.drop.shape, np.uint8)
    height, width = stage.drop.shape
    for x, y in chosen.astype(int):
        if kind != "teeth":
            radius = max(1, round(rng.uniform(1, 5 if kind == "beads" else 3) * scale))
            cv2.circle(ink, (x, y), radius, int(rng.integers(90, 255)), -1, cv2.LINE_AA)
            continue
        a, b, c, d = max(y - 3, 0), min(y + 3, height - 1), max(x - 3, 0), min(x + 3, width - 1)
        inward = np.array([stage.drop[y, d] - stage.drop[y, c], stage.drop[b, x] - stage.drop[a, x]])
        end = np.array([x, y]) + inward / max(np.hypot(*inward), 1e-3) * rng.uniform(5, 30) * scale
        tooth = (int(end[0]), int(end[1]))
        cv2.line(ink, (x, y), tooth, int(rng.integers(60, 220)), max(1, round(2 * scale)), cv2.LINE_AA)
    soft = cv2.GaussianBlur(ink, (0, 0), max(rng.uniform(0.6, 1.6) * scale, 0.4)).astype(np.float32) / 255
    strength = rng.uniform(0.3, 0.9) * (1 if kind == "beads" or rng.random() < 0.5 else -0.7)
    stage.transmission[:] *= np.clip(1 - strength * soft * (stage.drop > -3 * scale), 0.05, 1.5)


def oil(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Fifteen to two hundred droplets of oil, where the drop has separated into two phases, in place."""
    faint, typical = rng.uniform(0.2, 0.8), rng.uniform(3, 12) * scale
    favoured = stage.drop
    if rng.random() < 0.5:
        favoured = np.where(noise(rng, stage.drop.shape, 200 * scale) > 0, stage.drop, 0)
    for _ in range(int(log_uniform(rng, 15, 200))):
        place = inside(rng, favoured, typical)
        if place is not None:
            press(stage.transmission, _bubble(rng, max(typical * np.exp(rng.normal(0, 0.4)), 1.5), faint), *place)
