"""Drops as objects: their outline, what their lens does to the light, and the exact mask of the visible liquid.

The mask is what lies inside the contact line and can be seen: the outline filled, without what lies behind a black
wall. A drop that climbs the wall shows through it and counts there as well. What the lens does follows from its
surface, as with crystals: light that a slope bends out of the condenser's cone is lost, so a flat drop is dark only
along its edge and a domed one everywhere but in its middle.
"""

from typing import NamedTuple

import cv2
import numpy as np

from crystal.drops.stage import noise, ridge, step
from crystal.drops.world.plates import Plate

POINTS = 720  # of an outline
SMALL = 4  # the lens is smooth and is computed on a grid of a quarter of the size


class Liquid(NamedTuple):
    """One drop.

    mask: bool[h, w], the visible liquid.   distance: float32[h, w], pixels to its contact line, positive inside.
    centre: float[2], (x, y).   radius: its mean radius, in pixels.
    """

    mask: np.ndarray
    distance: np.ndarray
    centre: np.ndarray
    radius: float


def _bump(angle: np.ndarray, at: float, width: float) -> np.ndarray:
    """A bump of height 1 at the angle `at`, about `width` radians wide."""
    away = (angle - at + np.pi) % (2 * np.pi) - np.pi
    return np.exp(-((away / width) ** 2))


def outline(rng: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    """A closed outline float[720, 2] in pixels: round to lobed, some with tips, bites or a scalloped stretch."""
    angle = np.arange(POINTS) * 2 * np.pi / POINTS
    wild = rng.choice([0.02, 0.06, 0.12], p=[0.3, 0.4, 0.3])
    reach = np.ones(POINTS)
    for k in range(2, 6):
        reach = reach + rng.normal(0, wild / (k - 1)) * np.cos(k * angle + rng.uniform(0, 6.28))
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.5, 0.3, 0.15, 0.05]))):
        reach = reach + rng.uniform(0.04, 0.3) * _bump(angle, rng.uniform(0, 6.28), rng.uniform(0.05, 0.35))
    if rng.random() < 0.2:
        reach = reach - rng.uniform(0.1, 0.35) * _bump(angle, rng.uniform(0, 6.28), rng.uniform(0.1, 0.35))
    if rng.random() < 0.25:  # scallops: cusps along a stretch
        stretch = _bump(angle, rng.uniform(0, 6.28), rng.uniform(0.3, 1.2))
        teeth = np.abs(np.sin(angle * rng.integers(9, 40) + 2 * np.sin(3 * angle + rng.uniform(0, 6))))
        reach = reach + rng.uniform(0.01, 0.06) * stretch * (1 - teeth)
    long = rng.uniform(1, 1.35)
    turn = rng.uniform(0, 6.28)
    flat = np.c_[np.cos(angle) * long, np.sin(angle) / long] * reach[:, None] * radius
    return centre + flat @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def _filled(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An outline filled, uint8[shape]."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round((points - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return mask


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the edge of a mask uint8[h, w], float32, positive inside; the picture's border is no edge."""
    if mask.all():
        return np.full(mask.shape, 1e4, np.float32)
    return cv2.distanceTransform(mask, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)


def lens(rng: np.random.Generator, distance: np.ndarray, radius: float, scale: float) -> np.ndarray:
    """What a drop's surface lets through, float32[h, w], 1 outside.

    Args:
        rng: where the chances come from.
        distance: float32[h, w], pixels to the contact line, positive inside.
        radius: the drop's mean radius, in pixels.
        scale: the picture's size in units of 1280x960.
    """
    shape = distance.shape
    small = cv2.resize(distance, (-(-shape[1] // SMALL), -(-shape[0] // SMALL)), interpolation=cv2.INTER_AREA)
    # Smoothing rounds the ridges that distances to a lobed outline have.
    smooth = cv2.GaussianBlur(np.maximum(small, 0), (0, 0), max(0.09 * radius / SMALL, 0.5))
    domed = rng.choice([0.0, 1.0, 2.0], p=[0.4, 0.35, 0.25])  # flat with a meniscus, curved, strongly domed
    rim = radius * (rng.uniform(0.08, 0.3) if domed == 0 else rng.uniform(0.7, 1.1))
    t = np.clip(smooth / np.float32(rim), 0.02, 1)
    slope = (1 - t) / np.sqrt(np.maximum(1 - (1 - t) ** 2, 0.02))
    gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)
    length = np.maximum(np.hypot(gx, gy), 0.3 * SMALL)
    heading, lean = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    bending = rng.uniform(0.3, 0.8) * (1 + 0.5 * domed) * (0.6 + 0.4 * noise(rng, small.shape, radius / SMALL))
    bx, by = lean * np.cos(heading), lean * np.sin(heading)
    bent = (slope * gx / length - np.float32(bx)) ** 2 + (slope * gy / length - np.float32(by)) ** 2
    through = np.exp(-(bending**2) * (bent - lean**2))
    floor = rng.uniform(0.02, 0.3)
    body = rng.uniform(0.62, 1.0) if domed == 0 else rng.uniform(0.8, 1.1)
    through = body * (floor + (1 - floor) * np.minimum(through, 1.35))
    if rng.random() < 0.25:  # schlieren, radial from the middle
        rows, columns = np.nonzero(small > 0)
        if len(rows):
            y, x = np.mgrid[0 : small.shape[0], 0 : small.shape[1]].astype(np.float32)
            away, angle = cv2.cartToPolar(x - np.float32(columns.mean()), y - np.float32(rows.mean()))
            polar = cv2.resize(rng.standard_normal((7, 140), np.float32), (400, 64), interpolation=cv2.INTER_CUBIC)
            polar[:, -1] = polar[:, 0]
            rays = cv2.remap(polar, angle * np.float32(399 / 6.2832), away * np.float32(60 * SMALL / radius), 1)
            through = through * (1 + rng.uniform(0.01, 0.03) * rays * np.minimum(away * SMALL / radius, 1))
    wide = cv2.resize(through.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    inside = step(distance + 0.5, 1.2)
    light = 1 + (wide - 1) * inside
    line = np.clip(rng.uniform(-0.1, 0.7) + 0.4 * noise(rng, small.shape, 0.6 * radius / SMALL), 0.08, 0.9)
    line = cv2.resize(line.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    light *= 1 - line * ridge(distance, 0.3, rng.uniform(1.2, 3.2) * max(scale, 0.6))
    light *= 1 + rng.uniform(0, 0.09) * ridge(distance, -3 * scale, 3.5 * scale)
    return light


def pour(
    rng: np.random.Generator,
    transmission: np.ndarray,
    plate: Plate,
    scale: float,
    centre: np.ndarray,
    radius: float,
    taken: np.ndarray,
) -> Liquid | None:
    """Pour one drop onto a plate, in place.

    Args:
        rng: where the chances come from.
        transmission: float32[h, w], what the plate and earlier drops let through; changed.
        plate: the plate; where the drop reaches its wall it ends there or, now and then, climbs it.
        scale: the picture's size in units of 1280x960.
        centre: float[2], (x, y), in pixels.
        radius: in pixels.
        taken: bool[h, w], where other drops are.

    Returns:
        The drop, or None if nothing of it would be in sight, or it would run into another one.
    """
    shape = transmission.shape
    own = _filled(outline(rng, centre, radius), shape)
    climbs = rng.random() < 0.3
    wall = plate.distance < 0
    mask = own.astype(bool) & (~wall if not climbs else plate.distance > -rng.uniform(20, 120) * scale)
    if mask.sum() < 30 or (mask & taken).any():
        return None
    distance = signed_distance(own)
    offset = 0.0
    if rng.random() < 0.18:  # a terrace: a thin outer film, then the drop proper
        offset = rng.uniform(6, 34) * scale
    inner = distance - offset * np.clip(0.6 + 0.5 * noise(rng, shape, 0.8 * radius), 0.1, 1.5) if offset else distance
    light = lens(rng, inner.astype(np.float32), radius, scale)
    if offset:
        light *= 1 - rng.uniform(0.15, 0.5) * ridge(distance, 0.5, rng.uniform(1.2, 2.5) * scale)
        light *= 1 - rng.uniform(0.0, 0.12) * step(distance, 1.5)
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.5, 1.2) * max(scale, 0.5))
    seen = step(plate.distance + 2, 3)
    through = 1 + (light - 1) * seen
    if climbs:  # the liquid on the wall bends some light round it
        wet = mask & wall
        glow = rng.uniform(0.04, 0.25) * (1 + 0.25 * noise(rng, shape, 12 * scale)) * step(distance, 4 * scale)
        edge = 1 - 0.5 * ridge(distance, 2, 3 * scale)
        transmission[:] = np.where(wet, np.maximum(transmission, glow * edge), transmission)
    transmission *= through
    rows, columns = np.nonzero(mask[::4, ::4])
    middle = np.array([columns.mean(), rows.mean()]) * 4 if len(rows) else centre
    return Liquid(mask, np.where(wall & ~mask, np.minimum(distance, plate.distance), distance), middle, radius)
