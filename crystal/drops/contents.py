"""What lies in a drop besides crystals: precipitate, bubbles, skin; and dust over the whole image."""

import cv2
import numpy as np

from crystal.drops.stage import Stage, curve, grid, inside, noise, press, step


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


def bubble(rng: np.random.Generator, radius: float, faint: float) -> np.ndarray:
    """A bubble or oil droplet, a float32 patch: dark ring, bright middle, glint; `faint` 0 (black ring) to 1 (none)."""
    side = int(np.ceil(radius * 1.3)) * 2 + 1
    x, y = grid((side, side), 1)
    away = np.hypot(x - side / 2, y - side / 2) / np.float32(radius)
    blur = max(0.8 / radius, rng.uniform(0.03, 0.15))
    ring = step(away - rng.uniform(0.62, 0.85), blur + 0.08) * (1 - step(away - 1, blur))
    patch = 1 - (1 - faint) * rng.uniform(0.7, 0.95) * ring + 0.15 * np.exp(-((away / 0.4) ** 2))
    glint = np.hypot(x - side / 2 - 0.3 * radius, y - side / 2 + 0.3 * radius) / np.float32(radius)
    return (patch + 0.3 * np.exp(-((glint / 0.12) ** 2))).astype(np.float32)


def bubbles(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """One to three air bubbles, or a shower of oil droplets where the drop has separated into two phases."""
    if rng.random() < 0.5:
        number, low, high, faint = int(rng.integers(1, 4)), 8, 45, 0.0
    else:
        number, low, high, faint = int(rng.integers(15, 90)), 3, 11, rng.uniform(0.3, 0.75)
    for _ in range(number):
        point = inside(rng, stage.drop, 8)
        if point is not None:
            press(
                stage.transmission, bubble(rng, np.exp(rng.uniform(np.log(low), np.log(high))) * scale, faint), *point
            )


def skin(rng: np.random.Generator, stage: Stage, scale: float) -> None:
    """Folds of a skin and borders between phases: soft arcs inside the drop, darker on one side."""
    ink = np.zeros(stage.drop.shape, np.uint8)
    for _ in range(int(rng.integers(1, 5))):
        point = inside(rng, stage.drop, 60 * scale)
        if point is not None:
            line = curve(rng, point, rng.uniform(150, 520) * scale, 0.12)
            cv2.polylines(
                ink,
                [line],
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
            fibre = curve(rng, rng.uniform(0.1, 0.9, 2) * size, rng.uniform(120, 500) * scale, 0.1)
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
            scratch = curve(rng, rng.uniform(0.1, 0.9, 2) * size, rng.uniform(150, 900) * scale, 0.008)
            cv2.polylines(ink, [scratch], False, int(rng.integers(60, 170)), 1, cv2.LINE_AA, 4)
        stage.transmission[:] *= 1 - np.float32(1 / 255) * cv2.GaussianBlur(ink, (0, 0), sigma * scale)
