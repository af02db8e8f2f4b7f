"""Precipitate in a drop: grains, brown clouds and heaps, worm-like nets, gels with cracks. None of it is a crystal."""

import cv2
import numpy as np

from crystal.drops.stage import COARSE, Stage, curve, enlarge, inside, log_uniform, noise, step


def _coarse(shape: tuple[int, int]) -> tuple[int, int]:
    return (-(-shape[0] // COARSE), -(-shape[1] // COARSE))


def _region(rng: np.random.Generator, stage: Stage, scale: float) -> np.ndarray:
    """A soft part of the drop, often all of it, float32[h, w]."""
    shape = stage.drop.shape
    size = rng.uniform(90, 350) * scale
    field = noise(rng, _coarse(shape), size / COARSE) + np.float32(rng.uniform(-0.5, 2))
    return enlarge(step(field, rng.uniform(0.2, 0.9)), shape) * step(stage.drop - 4 * scale, 5 * scale)


def tint_brown(stage: Stage, share: np.ndarray, strength: float) -> None:
    """Colour brown in place where `share` float32[h, w] is 1; strength 0 to 1."""
    small = cv2.resize(share, stage.tint.shape[1::-1], interpolation=cv2.INTER_AREA)
    stage.tint[:] *= 1 - small[..., None] * np.array([0.0, 0.09, 0.28], np.float32) * np.float32(strength)


def grains(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Fine or coarse grains, dark or in relief, over a part of the drop, in place."""
    shape, region = stage.drop.shape, _region(rng, stage, scale)
    field = noise(rng, shape, log_uniform(rng, 1.2, 6) * max(scale, 0.6))
    if rng.random() < 0.35:  # relief: lit from one side
        shift = int(rng.integers(1, 3))
        stage.transmission[:] *= 1 + rng.uniform(0.03, 0.13) * (field - np.roll(field, shift, (0, 1))) * region
        return
    specks = np.maximum(field - rng.uniform(-0.3, 1.8), 0)
    stage.transmission[:] *= 1 - np.minimum(rng.uniform(0.08, 0.4) * specks, 0.75) * region


def cloud(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """A brown or grey haze and heaps with ragged edges, in place."""
    shape = stage.drop.shape
    small = _coarse(shape)
    field = noise(rng, small, rng.uniform(60, 220) * scale / COARSE)
    field = field + rng.uniform(0.15, 0.5) * noise(rng, small, 16 * scale / COARSE)
    heap = enlarge(step(field - rng.uniform(-2.5, 1.3), rng.uniform(0.2, 1.5)), shape)
    heap *= step(stage.drop - 5 * scale, rng.uniform(4, 25) * scale)
    texture = 1 + rng.uniform(0.03, 0.22) * noise(rng, shape, log_uniform(rng, 1.2, 6) * scale)
    stage.transmission[:] *= np.clip(1 - rng.uniform(0.1, 0.55) * heap * texture, 0.05, 1.2)
    if rng.random() < 0.7:
        tint_brown(stage, heap, rng.uniform(0.2, 1.0))


def worms(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """A net of worm-like lines, like wet sand or a brain, in place: where smooth noise crosses zero."""
    shape, region = stage.drop.shape, _region(rng, stage, scale)
    field = noise(rng, shape, rng.uniform(5, 22) * scale)
    lines = np.clip(1 - np.abs(field) * np.float32(1 / rng.uniform(0.12, 0.5)), 0, 1)
    sign = 1 if rng.random() < 0.75 else -0.6
    stage.transmission[:] *= 1 - sign * rng.uniform(0.06, 0.35) * lines * region


def cracks(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """A gel that shrank: long pale straight cracks, and dark branched ones, that look like needles, in place."""
    shape = stage.drop.shape
    pale, dark = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    straight = rng.random() < 0.5
    for _ in range(int(rng.integers(2, 16))):
        start = inside(rng, stage.drop, 20 * scale)
        if start is None:
            return
        length = rng.uniform(40, 300) * scale
        line = curve(rng, start, length, 0.012 if straight else rng.uniform(0.1, 0.5))
        if not straight:
            line = line + np.round(rng.normal(0, 2.5 * 16 * scale, line.shape)).astype(np.int32)
        ink = pale if straight or rng.random() < 0.2 else dark
        width = max(1, round(rng.uniform(0.8, 3.5) * scale))
        cv2.polylines(ink, [line], False, int(rng.integers(50, 230)), width, cv2.LINE_AA, 4)
    within = step(stage.drop - 4 * scale, 4 * scale) * np.float32(1 / 255)
    soft = rng.uniform(0.6, 2.2) * scale
    glow, gap = cv2.GaussianBlur(pale, (0, 0), soft), cv2.GaussianBlur(dark, (0, 0), soft)
    stage.transmission[:] *= 1 + (rng.uniform(0.1, 0.4) * glow - rng.uniform(0.3, 0.8) * gap) * within


def spherulites(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Round fuzzy balls of radiating fibres, one to forty, in place: not single crystals, so none is marked."""
    number = int(log_uniform(rng, 1, 40))
    typical = rng.uniform(8, 60) * scale / np.sqrt(1 + number / 12)
    for _ in range(number):
        place = inside(rng, stage.drop, typical)
        if place is None:
            return
        radius = typical * np.exp(rng.normal(0, 0.25))
        half = int(1.4 * radius) + 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        away, angle = cv2.cartToPolar(x, y)
        rays = rng.standard_normal(int(rng.integers(14, 50)))
        fuzz = np.interp(angle.ravel() / 6.2832 * len(rays), np.arange(len(rays) + 1), [*rays, rays[0]])
        fuzz = fuzz.reshape(angle.shape).astype(np.float32)
        edge = away / np.float32(radius) * (1 + 0.08 * fuzz)
        ball = step(1 - edge, rng.uniform(0.06, 0.35))
        dark = rng.uniform(0.15, 0.7) * (0.5 + 0.5 * np.clip(edge, 0, 1)) * (1 + 0.35 * fuzz)
        patch = np.clip(1 - ball * dark, 0.08, 1.1)
        top, left = int(place[1]) - half, int(place[0]) - half
        a, b = max(top, 0), max(left, 0)
        c, d = min(top + 2 * half + 1, stage.drop.shape[0]), min(left + 2 * half + 1, stage.drop.shape[1])
        if a < c and b < d:
            wet = stage.drop[a:c, b:d] > 0
            stage.transmission[a:c, b:d] *= np.where(wet, patch[a - top : c - top, b - left : d - left], 1)
