"""Scenes of ordinary shapes, drawn from a seed: what the small weights of the package are pre-trained on.

Half-transparent polygons, bars and stars in two or three tones are the objects; discs, rings, curves, dots and blurred
blotches are not. It teaches edges, closed outlines and overlap under uneven light. Nothing here is shared with the
painters of drops and crystals.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

LEAST_VISIBLE_SHARE = 0.3
LEAST_PIXELS = 24
MARGIN = 6  # pixels around a shape that its lines and blur may touch


class Scene(NamedTuple):
    """`image` uint8[h, w, 3]; `masks` bool[n, h, w], visible parts; `crowd` bool[n], those with too little to see."""

    image: UInt8[np.ndarray, "h w 3"]
    masks: Bool[np.ndarray, "n h w"]
    crowd: Bool[np.ndarray, " n"]


def _smooth(rng: np.random.Generator, height: int, width: int, cells: int) -> Float[np.ndarray, "h w"]:
    """Noise in about [-1, 1] that changes over `cells` cells a side."""
    coarse = rng.uniform(-1, 1, (cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _outline(rng: np.random.Generator, size: float) -> Float[np.ndarray, "k 2"]:
    """Corner points around the origin of a random polygon, bar or star, `size` pixels across."""
    kind = rng.choice(3, p=[0.6, 0.3, 0.1])
    corners = int(rng.integers(3, 9))
    angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners
    radius = np.full(corners, 0.5)
    stretch = rng.uniform(0.35, 1.0)
    if kind == 1:  # bar
        angles = np.array([0.25, 0.75, 1.25, 1.75]) * np.pi
        radius, stretch = np.full(4, 0.5 * np.sqrt(2)), rng.uniform(0.08, 0.35)
    elif kind == 2:  # star
        corners = 2 * int(rng.integers(4, 7))
        angles = np.arange(corners) * 2 * np.pi / corners
        radius = np.where(np.arange(corners) % 2, 0.5, rng.uniform(0.15, 0.3))
        stretch = rng.uniform(0.7, 1.0)
    points = np.stack([np.cos(angles), stretch * np.sin(angles)], 1) * (radius * size)[:, None]
    turn = rng.uniform(0, 2 * np.pi)
    return points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def _fixed(points: Float[np.ndarray, "k 2"]) -> list[np.ndarray]:
    """Sub-pixel corners in OpenCV's fixed-point form (4 bits)."""
    return [np.round(points * 16).astype(np.int32)]


def _line(corners: Float[np.ndarray, "k 2"], shape: tuple[int, int], thickness: int) -> Float[np.ndarray, "h w 1"]:
    """A closed line of 0..1 through the corners."""
    line = np.zeros(shape, np.float32)
    cv2.polylines(line, _fixed(corners), True, 1.0, thickness, cv2.LINE_AA, 4)
    return line[..., None]


def _draw_object(
    rng: np.random.Generator, canvas: Float[np.ndarray, "h w 3"], contrast: float
) -> Bool[np.ndarray, "h w"] | None:
    """Paint one shape onto the canvas, within its own window; returns its full outline, None if it lies outside."""
    height, width = canvas.shape[:2]
    size = float(np.clip(np.exp(rng.normal(np.log(30), 0.6)), 8, 120)) * width / 320
    points = _outline(rng, size) + rng.uniform([0, 0], [width, height])
    low = np.maximum(np.floor(points.min(0)).astype(int) - MARGIN, 0)
    high = np.minimum(np.ceil(points.max(0)).astype(int) + MARGIN, [width, height])
    if (high <= low).any():
        return None
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    part, corners = canvas[window], points - low - 0.5  # OpenCV counts from pixel centres
    shape = part.shape[:2]
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, _fixed(corners), 1, shift=4)
    if mask.sum() < LEAST_PIXELS:
        return None

    centre = corners.mean(0) + rng.uniform(-0.15, 0.15, 2) * size
    colour = (rng.uniform(-0.5, 0.5, 3) + rng.uniform(-1, 1)) * contrast
    layer, cover = np.zeros_like(part), np.zeros(shape, np.float32)
    cv2.fillPoly(cover, _fixed(corners), 1.0, cv2.LINE_AA, shift=4)
    if rng.random() < 0.6:  # sectors from an inner point, each in a tone of its own
        for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
            cv2.fillPoly(layer, _fixed(np.array([a, b, centre])), (colour * rng.uniform(-1, 1.5)).tolist(), shift=4)
    else:
        layer[:] = colour
    part += layer * (cover * rng.uniform(0.05, 0.9))[..., None]
    if rng.random() < 0.85:  # an outline, light or dark, or both a pixel apart
        thickness = max(1, round(rng.uniform(0.7, 2.2) * width / 320))
        for shift, tone in ((0.0, rng.choice([-1, 1])), (rng.uniform(0.8, 1.8), rng.choice([-1, 0, 1]))):
            part += _line(corners + shift, shape, thickness) * tone * contrast * rng.uniform(0.3, 1.0)
        if rng.random() < 0.3:  # inner lines
            inner = centre + (corners - centre) * rng.uniform(0.3, 0.8)
            part += _line(inner, shape, 1) * rng.choice([-1, 1]) * contrast * 0.6
    if rng.random() < 0.25:  # out of focus
        part[:] = cv2.GaussianBlur(part, (0, 0), rng.uniform(0.6, 1.8))
    full = np.zeros((height, width), bool)
    full[window] = mask
    return full


def _draw_clutter(rng: np.random.Generator, canvas: Float[np.ndarray, "h w 3"], contrast: float) -> None:
    """Things that are no objects: one disc, ring, curve, spray of dots, blotch or a long straight edge."""
    height, width = canvas.shape[:2]
    layer = np.zeros((height, width), np.float32)
    x, y = (int(v) for v in rng.uniform([0, 0], [width, height]))
    kind = rng.integers(6)
    radius = float(np.exp(rng.uniform(np.log(2), np.log(80))))
    if kind == 0:
        cv2.ellipse(
            layer, ((x, y), (radius, radius * rng.uniform(0.6, 1.0)), rng.uniform(0, 180)), 1.0, -1, cv2.LINE_AA
        )
    elif kind == 1:
        cv2.circle(layer, (x, y), int(radius * rng.uniform(0.5, 3)) + 1, 1.0, int(rng.integers(1, 4)), cv2.LINE_AA)
    elif kind == 2:
        t = np.linspace(0, 1, 24)[:, None]
        a, b, c = rng.uniform(-0.2, 1.2, (3, 2)) * [width, height]
        curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
        cv2.polylines(layer, _fixed(curve), False, 1.0, int(rng.integers(1, 3)), cv2.LINE_AA, 4)
    elif kind == 3:
        for px, py in rng.normal([x, y], radius, (int(rng.integers(5, 60)), 2)):
            cv2.circle(layer, (int(px), int(py)), int(rng.integers(1, 3)), 1.0, -1, cv2.LINE_AA)
    elif kind == 4:
        cv2.circle(layer, (x, y), int(radius) + 2, 1.0, -1)
        layer = cv2.GaussianBlur(layer, (0, 0), radius / 2) * (1 + _smooth(rng, height, width, 24))
    else:
        angle = rng.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[0:height, 0:width]
        side = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        layer = np.clip(0.5 + side / rng.uniform(1, 40), 0, 1).astype(np.float32)
    canvas += layer[..., None] * rng.uniform(-1, 1) * contrast * (1 + 0.3 * rng.uniform(-1, 1, 3))


def draw_scene(seed: int | tuple[int, ...], *, height: int = 256, width: int = 320) -> Scene:
    """One scene: 0 to 30 shapes among clutter, under uneven light, with noise. The topmost shape owns a pixel."""
    rng = np.random.default_rng(seed)
    contrast = rng.uniform(0.12, 0.5)
    canvas = np.full((height, width, 3), rng.uniform(0.25, 0.75), np.float32)
    canvas += rng.uniform(-0.08, 0.08, 3)
    for _ in range(rng.integers(0, 7)):
        _draw_clutter(rng, canvas, contrast)
    outlines = []
    few, many = int(rng.integers(1, 6)), int(rng.integers(6, 31))
    for _ in range(int(rng.choice([0, few, many], p=[0.03, 0.57, 0.4]))):
        outline = _draw_object(rng, canvas, contrast)
        if outline is not None:
            outlines.append(outline)
    for _ in range(rng.integers(0, 3)):
        _draw_clutter(rng, canvas, 0.5 * contrast)
    canvas *= 1 + rng.uniform(0, 0.5) * _smooth(rng, height, width, 2)[..., None]
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.2))
    canvas += rng.normal(0, rng.uniform(0.003, 0.03), canvas.shape)

    masks, taken = [], np.zeros((height, width), bool)
    for outline in reversed(outlines):
        masks.append(outline & ~taken)
        taken |= outline
    sizes = [outline.sum() for outline in reversed(outlines)]
    seen = [m.sum() for m in masks]
    shown = [i for i in range(len(masks)) if seen[i]]
    crowd = [seen[i] < LEAST_VISIBLE_SHARE * sizes[i] or seen[i] < LEAST_PIXELS for i in shown]
    image = np.clip(canvas * 255, 0, 255).astype(np.uint8)
    return Scene(image, np.array([masks[i] for i in shown]).reshape(-1, height, width), np.array(crowd, bool))
