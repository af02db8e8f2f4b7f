"""Skins with folds and double outlines, borders between two phases, bubbles and droplets of oil."""

import cv2
import numpy as np

from crystal.drops.stage import COARSE, Stage, curve, enlarge, grid, inside, noise, press, ridge, step
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
            radius = np.exp(rng.uniform(np.log(5), np.log(48))) * scale
            press(stage.transmission, _bubble(rng, radius, rng.uniform(0, 0.4)), *place)


def oil(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Fifteen to two hundred droplets of oil, where the drop has separated into two phases, in place."""
    faint, typical = rng.uniform(0.2, 0.8), rng.uniform(3, 12) * scale
    favoured = stage.drop
    if rng.random() < 0.5:
        favoured = np.where(noise(rng, stage.drop.shape, 200 * scale) > 0, stage.drop, 0)
    for _ in range(int(np.exp(rng.uniform(np.log(15), np.log(200))))):
        place = inside(rng, favoured, typical)
        if place is not None:
            press(stage.transmission, _bubble(rng, max(typical * np.exp(rng.normal(0, 0.4)), 1.5), faint), *place)
