"""The camera: the lamp, its tint, the exposure, haze and noise over a painted stage."""

import cv2
import numpy as np

from crystal.drops.stage import COARSE, Stage, grid, noise


def photograph(rng: np.random.Generator, stage: Stage, light: float) -> np.ndarray:
    """The stage photographed, uint8[h, w, 3] RGB; `light` 0 = bright, even, clean, to 1 = dim, uneven, hazy, noisy."""
    shape = stage.transmission.shape
    scale = min(shape[0] / 800, shape[1] / 1000)
    x, y = grid(shape, COARSE)
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
