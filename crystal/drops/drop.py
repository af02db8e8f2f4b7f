"""One crystallization drop drawn from a seed, with the exact mask of every crystal.

`draw_drop` paints a well with its drop (`wells.py`) and what lies in it (`contents.py`) on a stage (`stage.py`), lays
crystals (`crystals.py`) into it, and photographs it (`camera.py`).

Two crystals can cover the same pixel; the one drawn last lies on top and owns it. So masks are disjoint and show the
visible part only. A crystal of which little is visible is marked as a crowd: finding it counts neither for nor against.
"""

from typing import NamedTuple

import numpy as np

from crystal.drops.camera import photograph
from crystal.drops.contents import bubbles, litter, precipitate, skin
from crystal.drops.crystals import KINDS, Look, Patch, cluster, draw_look, grow, hides_too_much, settle, transmit
from crystal.drops.stage import COARSE, Stage, noise, step, tint_part
from crystal.drops.wells import drop_in_well, open_well, round_well, square_well

LEAST_VISIBLE_SHARE = 0.25  # below this share of its outline a crystal is ignored
LEAST_VISIBLE_PIXELS = 20  # the same, in pixels of an image whose longer side is 512
MOST_CRYSTALS = 60


class DrawnCrystal(NamedTuple):
    """One crystal: `mask` bool[h, w], its visible part; `kind`, one of `crystals.KINDS`; `ignored`: too little of it is
    visible to be counted; `category`, "crystal" in what `draw_drop` draws.
    """

    mask: np.ndarray
    kind: str
    ignored: bool
    category: str = "crystal"


class Drop(NamedTuple):
    """A micrograph `image` uint8[h, w, 3] RGB, not yet compressed; its crystals from the bottom up; `liquid`
    bool[h, w], all of the drop that shows in its well, with the crystals in it.
    """

    image: np.ndarray
    instances: tuple[DrawnCrystal, ...]
    liquid: np.ndarray


def _set_stage(rng: np.random.Generator, shape: tuple[int, int], *, close: bool) -> Stage:
    """A well with its drop and everything in it but crystals; `close`: the drop fills the view."""
    scale = min(shape[0] / 800, shape[1] / 1000)
    builders = (open_well, round_well, square_well)
    weights = (0.6, 0.25, 0.15) if close else (0.1, 0.55, 0.35)
    transmission, well, centre = builders[int(rng.choice(3, p=weights))](rng, shape, scale)
    lens, rim = drop_in_well(rng, shape, scale, centre, close)
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


def _count(rng: np.random.Generator) -> int:
    """How many crystals a drop holds: mostly 1 to 12, a few none, a tail of showers up to 60."""
    kind = rng.choice(4, p=[0.04, 0.76, 0.14, 0.06])
    if kind == 1:
        return int(min(1 + rng.geometric(0.2), 12)) if rng.random() < 0.8 else 1
    return (0, 0, int(rng.integers(10, 25)), int(rng.integers(25, MOST_CRYSTALS + 1)))[kind]


def _typical_size(rng: np.random.Generator, count: int) -> float:
    """Median size in pixels at 1000x800: few crystals grow large, showers stay small."""
    if count <= 3:
        return rng.uniform(95, 210)
    if count <= 12:
        return rng.uniform(62, 135)
    return rng.uniform(38, 80) if count < 25 else rng.uniform(24, 46)


def _paint(rng: np.random.Generator, stage: Stage, clear: np.ndarray, patch: Patch, look: Look) -> None:
    """Paint one crystal onto the stage; what lies beneath it shines through by a third."""
    where = patch.rows, patch.columns
    light = transmit(rng, patch.parts, patch.centre, (patch.columns.start, patch.rows.start), patch.mask.shape, look)
    beneath = stage.transmission[where] / np.maximum(clear[where], 1e-3)
    through = np.where(patch.mask, 0.35 * beneath + 0.65, beneath)
    stage.transmission[where] = clear[where] * through * light
    if stage.polarised and rng.random() < 0.8:  # birefringence: one colour a crystal
        hue = rng.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3
        colour = 1 + rng.uniform(0.02, 0.12) * np.cos(hue)
        tint_part(stage, *where, patch.mask, colour)


def _scatter(
    rng: np.random.Generator, stage: Stage, count: int, light: float
) -> tuple[list[str], list[int], np.ndarray]:
    """Lay `count` crystals into the drop.

    Returns their kinds, the areas of their whole outlines in pixels, and owner int32[h, w]: each pixel's crystal,
    counted from 1, or 0.
    """
    shape = stage.drop.shape
    scale = min(shape[0] / 800, shape[1] / 1000)
    owner = np.zeros(shape, np.int32)
    kinds: list[str] = []
    areas: list[int] = []
    visible: list[int] = []
    spots: list[tuple[np.ndarray, float]] = []
    clear = stage.transmission.copy()
    room = stage.drop[::4, ::4]
    habit = str(rng.choice(KINDS, p=[0.24, 0.22, 0.18, 0.17, 0.08, 0.11]))  # one protein, mostly one habit
    typical, look = _typical_size(rng, count) * scale, draw_look(rng, scale, light)
    gather, rim = rng.choice([0.1, 0.3, 0.6]), rng.random() < 0.15  # how many touch; whether they sit at the rim
    for _ in range(count):
        kind = habit if rng.random() < 0.8 else str(rng.choice(KINDS, p=[0.28, 0.26, 0.18, 0.18, 0.02, 0.08]))
        size = float(np.clip(typical * np.exp(rng.normal(0, 0.3)), 12 * scale, 290 * scale))
        size *= {"needle": 1.7, "prism": 1.2, "cluster": 1.25}.get(kind, 1.0)
        buries = bool(spots) and rng.random() < 0.04  # now and then one below is nearly buried
        share, gap = (0.08, (0.05, 0.35)) if buries else (0.55, (0.55, 0.95))
        patch = None
        for _attempt in range(60):
            parts = cluster(rng, size) if kind == "cluster" else [grow(rng, kind, size)]
            margin = (0.12 if rim else 0.36) * size
            if buries or (spots and rng.random() < gather):
                other, width = spots[int(rng.integers(len(spots)))]
                heading = rng.uniform(0, 2 * np.pi)
                centre = other + rng.uniform(*gap) * (size + width) / 2 * np.array([np.cos(heading), np.sin(heading)])
            else:
                rows, columns = np.nonzero((room > margin) & (room < margin + 40 * scale) if rim else room > margin)
                if not len(rows):
                    size *= 0.85
                    continue
                k = rng.integers(len(rows))
                centre = np.array([columns[k], rows[k]]) * 4.0 + rng.uniform(0, 4, 2)
            row, column = (np.clip(centre[::-1] / 4, 0, np.array(room.shape) - 1)).astype(int)
            if room[row, column] > 0.8 * margin:
                trial = settle(rng, parts, centre, shape)
                if trial is not None and not hides_too_much(trial, owner, areas, visible, share):
                    patch = trial
                    break
            size *= 0.96
        if patch is None:
            continue
        depth = rng.choice([0.65, 0.9, 1.5, 2.8], p=[0.45, 0.33, 0.15, 0.07]) * scale
        _paint(rng, stage, clear, patch, look._replace(defocus=max(depth, 0.5)))
        below = owner[patch.rows, patch.columns]
        for hidden, pixels in zip(*np.unique(below[patch.mask], return_counts=True), strict=True):
            if hidden:
                visible[hidden - 1] -= int(pixels)
        below[patch.mask] = len(areas) + 1
        kinds.append(kind)
        areas.append(int(patch.mask.sum()))
        visible.append(areas[-1])
        spots.append((patch.centre, size))
    return kinds, areas, owner


def draw_drop(
    seed: int | tuple[int, ...],
    *,
    height: int = 800,
    width: int = 1000,
    light: float = 0.5,
    crystals: int | None = None,
) -> Drop:
    """Draw one drop.

    Args:
        seed: a number or a tuple of numbers, none negative; equal seeds draw equal drops.
        height: of the image, in pixels.
        width: of the image, in pixels.
        light: 0 = even and contrasty, 1 = dim, uneven and faint. It never moves anything: the masks stay the same.
        crystals: how many crystals, 0 to 60; None draws the number too.

    Returns:
        The image, its crystals and its liquid. A crystal's mask is what is visible of it, at least one pixel.

    Raises:
        ValueError: if light or crystals is out of range.
    """
    if not 0 <= light <= 1:
        raise ValueError(f"light is {light}; it goes from 0 (even, contrasty) to 1 (dim, uneven, faint)")
    if crystals is not None and not 0 <= crystals <= MOST_CRYSTALS:
        raise ValueError(f"crystals is {crystals}; a drop holds 0 to {MOST_CRYSTALS}")
    scene, optics = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    count = _count(scene)
    count = count if crystals is None else crystals
    stage = _set_stage(scene, (height, width), close=bool(scene.random() < (0.45 if count <= 3 else 0.3)))
    kinds, areas, owner = _scatter(scene, stage, count, light)
    least = LEAST_VISIBLE_PIXELS * (max(height, width) / 512) ** 2
    instances = []
    for index, (kind, area) in enumerate(zip(kinds, areas, strict=True), start=1):
        mask = owner == index
        seen = int(mask.sum())
        if seen:
            instances.append(DrawnCrystal(mask, kind, seen < LEAST_VISIBLE_SHARE * area or seen < least))
    return Drop(photograph(optics, stage, light), tuple(instances), stage.drop > 0)
