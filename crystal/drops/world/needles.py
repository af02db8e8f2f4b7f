"""Crystals that are hardly more than a line or a pale area: needles, laths, very thin plates.

Needles are three to six pixels wide at 1280x960 and faint; they lie alone, cross each other, or grow in sprays and
stars from one point. Of a lath two parallel edges are seen, of a thin plate a pale area with one visible edge. They
let what lies beneath them through.
"""

from typing import NamedTuple

import cv2
import numpy as np

from crystal.data.segmentation import draw_pixels
from crystal.drops.crystals import outline
from crystal.drops.stage import Stage, inside, log_uniform, noise
from crystal.drops.world.layer import Layer
from crystal.drops.world.solids import tinge

LATH = 5.5  # width in pixels at 1280x960 from which two edges are seen
FINE = 4  # bits of OpenCV's fixed-point corners


class Flat(NamedTuple):
    """A flat crystal, all in pixels.

    corners: float[n, 2], its outline.   body: float[m, 2], the part that is dark or pale all over.   kind: its name.
    strengths: how much body, edges and first edge darken, 0 to 1; negative ones brighten.
    line: width of its edges.   blur: sigma of its defocus.
    """

    corners: np.ndarray
    body: np.ndarray
    kind: str
    strengths: tuple[float, float, float]
    line: float
    blur: float


def _lay_flat(rng: np.random.Generator, stage: Stage, layer: Layer, flat: Flat) -> None:
    """Lay a flat crystal; what lies below shows through."""
    corners, strengths, blur = flat.corners, flat.strengths, flat.blur
    shape = layer.owner.shape
    pad = int(np.ceil(3 * blur + flat.line)) + 2
    low = np.maximum(np.floor(corners.min(0)).astype(int) - pad, 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + pad, [shape[1], shape[0]])
    if (high - low < 2).any():
        return
    rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
    points = np.round((corners - low - 0.5) * 2**FINE).astype(np.int32)
    patch = (high[1] - low[1], high[0] - low[0])
    body, edges = np.zeros(patch, np.uint8), np.zeros(patch, np.uint8)
    # Not OpenCV's polygon, which counts every pixel that its border touches: a third more than a needle has.
    mask = draw_pixels([(corners - low).ravel().tolist()], *patch)
    inner = np.round((flat.body - low - 0.5) * 2**FINE).astype(np.int32)
    cv2.fillPoly(body, [inner], 255, cv2.LINE_AA, shift=FINE)
    mask = mask.astype(bool) & (stage.drop[rows, columns] > 0)
    if not mask.any():
        return
    first = np.zeros(patch, np.uint8)
    width = max(1, round(flat.line))
    cv2.polylines(edges, [points], True, 255, width, cv2.LINE_AA, FINE)
    cv2.line(first, points[0].tolist(), points[1].tolist(), 255, width, cv2.LINE_AA, FINE)
    light = 1 - (strengths[0] * body + strengths[1] * edges + strengths[2] * first) * np.float32(1 / 255)
    along = 1 + 0.45 * noise(rng, patch, max(0.3 * max(patch), 4))  # no needle is equally dark all along
    light = 1 + (np.clip(light, 0.05, 1.4) - 1) * np.clip(along, 0.25, 1.8)
    light = cv2.GaussianBlur(light.astype(np.float32), (0, 0), blur)
    light = np.where(stage.drop[rows, columns] > 0, light, 1)
    narrow = mask.sum() / max(np.hypot(*(corners.max(0) - corners.min(0))), 1.0)
    # A line is told by its length even where it is as blurred as it is wide.
    layer.lay(rows, columns, mask, light, flat.kind, blur=blur / (4 * narrow))
    if stage.polarised and rng.random() < 0.4:
        tinge(rng, stage, rows, columns, mask)


def _lay_needle(
    rng: np.random.Generator,
    stage: Stage,
    layer: Layer,
    start: np.ndarray,
    heading: float,
    length: float,
    width: float,
    scale: float,
    darkness: float,
    kind: str,
) -> None:
    """A needle or lath from `start` along `heading`; `width` and `length` in pixels, `darkness` 0 to 1."""
    along = np.array([np.cos(heading), np.sin(heading)])
    across = np.array([-along[1], along[0]]) * width / 2
    taper = rng.uniform(0.1, 1.0)
    tip = start + along * length
    corners = np.array([start - across, tip - across * taper, tip + across * taper, start + across])
    wide = width > LATH * scale
    # What is seen of a needle is a line in the middle of its outline, which the lens's blur widens.
    core = np.array([start, (start + tip) / 2 - across * rng.uniform(0.3, 0.8), tip, (start + tip) / 2 + across * 0.5])
    body, edge = (0.2 * darkness, 0.8 * darkness) if wide else (darkness, rng.uniform(0, 0.3) * darkness)
    blur = max(rng.uniform(0.12, 0.3) * width if not wide else rng.uniform(0.5, 1.2) * scale, 0.4)
    blur *= 1 if rng.random() < 0.85 else 2
    strengths = (-0.7 * body, edge, edge * rng.uniform(0, 0.6)) if wide or rng.random() < 0.1 else (body, edge, 0.0)
    shape = Flat(corners, corners if wide else core, kind, strengths, rng.uniform(0.8, 1.5) * scale, blur)
    _lay_flat(rng, stage, layer, shape)


def lay_needles(rng: np.random.Generator, stage: Stage, layer: Layer, scale: float) -> None:
    """Needles and laths: single and crossing ones, sprays that open like a fan, stars from one point."""
    darkness = log_uniform(rng, 0.1, 0.7)
    long = rng.uniform(40, 190) * scale
    width = rng.uniform(3, LATH) * scale if rng.random() < 0.7 else rng.uniform(LATH, 15) * scale
    groups = int(rng.integers(2, 12))
    gathered = inside(rng, stage.drop, 0.5 * long) if rng.random() < 0.5 else None
    for _ in range(groups):
        place = inside(rng, stage.drop, 8 * scale)
        if place is None:
            return
        if gathered is not None:
            place = gathered + rng.normal(0, 1.1 * long, 2)
        kind = rng.choice(["single", "cross", "spray", "star"], p=[0.4, 0.25, 0.2, 0.15])
        number = {"single": 1, "cross": int(rng.integers(2, 5))}.get(kind, int(rng.integers(4, 16)))
        toward, opening = rng.uniform(0, 6.28), rng.uniform(0.3, 1.4) if kind == "spray" else 2 * np.pi
        for k in range(number):
            length = long * np.exp(rng.normal(0, 0.35))
            heading = toward + opening * (k + rng.uniform(-0.3, 0.3)) / number
            start = place
            if kind in ("single", "cross"):
                heading = rng.uniform(0, 6.28)
                start = (
                    place - 0.5 * length * np.array([np.cos(heading), np.sin(heading)]) + rng.normal(0, 0.15, 2) * long
                )
            own = darkness * np.exp(rng.normal(0, 0.35))
            name = "lath" if width > LATH * scale else "needle"
            _lay_needle(
                rng, stage, layer, start, heading, length, width * rng.uniform(0.75, 1.25), scale, min(own, 0.9), name
            )


def lay_thin_plates(rng: np.random.Generator, stage: Stage, layer: Layer, scale: float) -> None:
    """One to ten very thin plates: a pale area with one visible edge, single or overlapping like leaves."""
    typical, pale = rng.uniform(30, 150) * scale, rng.choice([-1, 1]) * rng.uniform(0.03, 0.1)
    together = rng.random() < 0.4
    place = inside(rng, stage.drop, 0.4 * typical)
    for _ in range(int(rng.integers(1, 11))):
        if place is None or not together or rng.random() < 0.3:
            place = inside(rng, stage.drop, 0.4 * typical)
        if place is None:
            return
        size = typical * np.exp(rng.normal(0, 0.3))
        turn = rng.uniform(0, 6.28)
        flat = outline(rng, int(rng.choice([4, 4, 5, 6, 8])), 0.6, rng.uniform(1, 2.4)) * size / 2
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        centre = place + rng.normal(0, 0.5 * size if together else 1, 2)
        strengths = (pale * rng.uniform(0.5, 1.5), rng.uniform(0.0, 0.2), rng.uniform(0.2, 0.7))
        blur = max(rng.uniform(0.5, 1.4) * scale, 0.4)
        corners = np.roll(flat @ rotation, rng.integers(4), 0) + centre
        _lay_flat(rng, stage, layer, Flat(corners, corners, "thin plate", strengths, rng.uniform(0.8, 2) * scale, blur))
