"""Solid crystals of any size: blocks, plates, rods and bipyramids with the looks that imagers give them.

The shapes and their refraction are those of `crystal.drops.crystals`; here are more looks (glassy, in relief, faint,
mere outlines), what lies inside a crystal, and the ways solids gather: alone, in clumps of intergrown ones round a
brown centre, in showers, and in chains along the edge of a drop.
"""

import cv2
import numpy as np

from crystal.drops.crystals import Look, grow, settle, transmit
from crystal.drops.stage import COARSE, Stage, inside, log_uniform, noise, tint_part
from crystal.drops.world.layer import Layer

HABITS = ("plate", "block", "prism", "bipyramid")


def draw_look(rng: np.random.Generator, scale: float) -> Look:
    """The look of one drop's crystals: glassy, in relief (lit from one side), faint, or a mere outline."""
    style = rng.choice(["glass", "relief", "faint", "outline"], p=[0.35, 0.25, 0.15, 0.25])
    heading = rng.uniform(0, 2 * np.pi)
    lean = rng.uniform(0.5, 1.1) if style == "relief" else rng.uniform(0.05, 0.5)
    return Look(
        bending=rng.uniform(0.15, 0.35) if style == "outline" else rng.uniform(0.4, 1.1),
        bias=np.array([np.cos(heading), np.sin(heading)]) * lean,
        floor=rng.uniform(0.05, 0.4),
        gain=rng.uniform(1.0, 1.25),
        ink=rng.uniform(0.5, 0.9) if style == "outline" else rng.uniform(0.05, 0.5),
        line=rng.uniform(0.5, 1.6) * scale,
        defocus=max(rng.uniform(0.5, 1.1) * scale, 0.4),
        contrast=rng.uniform(0.2, 0.45) if style == "faint" else rng.uniform(0.7, 1.1),
    )


def flaws(rng: np.random.Generator, light: np.ndarray, mask: np.ndarray, size: float) -> None:
    """Uneven glass, and now and then a hollow with a dark ring, in place."""
    light *= np.where(mask, 1 + rng.uniform(0, 0.09) * noise(rng, mask.shape, max(0.2 * size, 3)), 1)
    if size > 40 and rng.random() < 0.2:
        points = np.argwhere(mask)
        y, x = points[rng.integers(len(points))]
        centre = (int(x), int(y))
        ring = np.zeros(mask.shape, np.uint8)
        axes = (max(round(size * 0.05), 2), max(round(size * rng.uniform(0.025, 0.05)), 1))
        cv2.ellipse(ring, centre, axes, rng.uniform(0, 180), 0, 360, 255, max(round(size * 0.015), 1), cv2.LINE_AA)
        light *= np.where(mask, 1 - rng.uniform(0.3, 0.8) / 255 * ring, 1)


def lay_solid(
    rng: np.random.Generator,
    stage: Stage,
    layer: Layer,
    look: Look,
    kind: str,
    centre: np.ndarray,
    size: float,
    *,
    heading: float | None = None,
    least_share: float = 0.45,
    doubtful: bool = False,
    cut: np.ndarray | None = None,
) -> bool:
    """Lay one solid.

    Args:
        rng: where the chances come from.
        stage: whose colours it changes under polarised light.
        layer: where it is laid.
        look: of the drop's crystals; `defocus` is this one's own.
        kind: one of HABITS or "needle".
        centre: float[2], (x, y), in pixels.
        size: its longest width, in pixels.
        heading: of its long axis, in radians; by chance if None.
        least_share: it is not laid if less of it would lie free of others, or would leave less of itself in sight.
        doubtful: whether nobody could outline it.
        cut: bool[h, w], where a crystal can be: it ends at the border; None: everywhere.

    Returns:
        Whether it was laid.
    """
    part = grow(rng, kind, size, heading)
    patch = settle(rng, [part], centre, layer.owner.shape)
    if patch is None:
        return False
    rows, columns, mask = patch.rows, patch.columns, patch.mask
    # Each lies in its own way to the light: edges of one are black and hardly seen on the next.
    own = look._replace(
        ink=min(look.ink * rng.uniform(0.3, 1.3), 0.95),
        bending=look.bending * rng.uniform(0.7, 1.35),
        bias=look.bias * rng.uniform(0.6, 1.4) + rng.normal(0, 0.08, 2),
    )
    light = transmit(rng, [part], centre, (columns.start, rows.start), mask.shape, own)
    flaws(rng, light, mask, size)
    if cut is not None:
        allowed = cut[rows, columns]
        light, mask = np.where(allowed, light, 1), mask & allowed
    if not mask.any() or layer.visible_share(rows, columns, mask) < least_share:
        return False
    narrow = mask.sum() / max(size, 1.0)
    layer.lay(rows, columns, mask, light, kind, blur=look.defocus / max(narrow, 1.0), doubtful=doubtful, through=0.35)
    if stage.polarised and rng.random() < 0.6:
        tinge(rng, stage, rows, columns, mask)
    return True


def tinge(rng: np.random.Generator, stage: Stage, rows: slice, columns: slice, mask: np.ndarray) -> None:
    """Birefringence: a crystal's own faint colour, in place."""
    hue = rng.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3
    colour = 1 + rng.uniform(0.02, 0.14) * np.cos(hue)
    tint_part(stage, rows, columns, mask, colour)


def stain(stage: Stage, centre: np.ndarray, width: float, strength: float, rng: np.random.Generator) -> None:
    """A brown cloud `width` pixels across in the middle of a clump, in place; strength 0 to 1."""
    half = int(1.6 * width) + 2
    x0, y0 = (int(v) - half for v in centre)
    rows = slice(max(y0, 0), min(y0 + 2 * half, stage.transmission.shape[0]))
    columns = slice(max(x0, 0), min(x0 + 2 * half, stage.transmission.shape[1]))
    if rows.stop - rows.start < 2 * COARSE or columns.stop - columns.start < 2 * COARSE:
        return
    y, x = np.mgrid[rows, columns].astype(np.float32)
    away = np.hypot(x - np.float32(centre[0]), y - np.float32(centre[1])) / np.float32(0.5 * width)
    cloud = np.exp(-(away**2)) * (1 + 0.25 * noise(rng, away.shape, max(0.12 * width, 2)))
    cloud = np.clip(cloud, 0, 1) * (stage.drop[rows, columns] > 0)
    stage.transmission[rows, columns] *= 1 - np.float32(strength) * cloud
    tint_part(stage, rows, columns, cloud, 1 - strength * np.array([0.0, 0.12, 0.35]))


def lay_few(rng: np.random.Generator, stage: Stage, layer: Layer, scale: float) -> None:
    """One to twelve crystals of one habit, mostly, from large ones in focus to small ones at the rim."""
    look = draw_look(rng, scale)
    habit = HABITS[rng.integers(len(HABITS))]
    count = int(min(1 + rng.geometric(0.25), 12))
    typical = log_uniform(rng, 20, 180) * scale * (1.2 if count < 4 else 0.8)
    at_rim = rng.random() < 0.25
    largest = min(320 * scale, 1.3 * float(stage.drop.max()))
    for _ in range(count):
        size = float(np.clip(typical * np.exp(rng.normal(0, 0.35)), min(12 * scale, largest), largest))
        kind = habit if rng.random() < 0.85 else HABITS[rng.integers(len(HABITS))]
        for _attempt in range(8):
            room = np.where(stage.drop < 0.6 * size, stage.drop, 0) if at_rim else stage.drop
            point = inside(rng, room, 0.15 * size if at_rim else min(0.3 * size, 40 * scale))
            defocus = look.defocus * rng.choice([1, 1.4, 2.5, 5], p=[0.55, 0.25, 0.13, 0.07])
            if point is not None and lay_solid(
                rng, stage, layer, look._replace(defocus=defocus), kind, point, size, cut=stage.drop > 1
            ):
                break


def lay_shower(rng: np.random.Generator, stage: Stage, layer: Layer, scale: float) -> None:
    """50 to 300 small crystals, many of them out of focus, in part of the drop or all over it."""
    look = draw_look(rng, 0.7 * scale)
    look = look._replace(contrast=max(look.contrast, 0.4))
    habit = HABITS[rng.integers(len(HABITS))]
    count = int(log_uniform(rng, 50, 300))
    typical = log_uniform(rng, 9, 32) * scale * (1.3 if count < 100 else 0.9)
    depth = rng.uniform(0.2, 2.0)  # how deep the drop is: how many lie out of focus
    favoured = stage.drop
    if rng.random() < 0.6:
        favoured = np.where(noise(rng, stage.drop.shape, rng.uniform(150, 400) * scale) > -0.2, stage.drop, 0)
    together = rng.choice([0.0, 0.15, 0.4])
    last = None
    for _ in range(count):
        size = float(typical * np.exp(rng.normal(0, 0.3)))
        point = inside(rng, favoured, 0.5 * size)
        if point is None:
            continue
        if last is not None and rng.random() < together:
            point = last + rng.normal(0, 0.8 * size, 2)
        defocus = max(0.5, look.defocus * (1 + abs(rng.normal(0, depth))))
        kind = habit if rng.random() < 0.9 else HABITS[rng.integers(len(HABITS))]
        if lay_solid(rng, stage, layer, look._replace(defocus=defocus), kind, point, size, cut=stage.drop > 0):
            last = point


def lay_clumps(rng: np.random.Generator, stage: Stage, layer: Layer, scale: float) -> None:
    """Clumps of three to twenty intergrown crystals, most round a brown centre, with some single ones between them."""
    look = draw_look(rng, 0.8 * scale)
    look = look._replace(contrast=max(look.contrast, 0.6))
    habit = HABITS[rng.integers(len(HABITS))]
    typical = log_uniform(rng, 13, 46) * scale
    brown = rng.uniform(0, 0.75) if rng.random() < 0.7 else 0.0
    for _ in range(int(rng.integers(2, 16))):
        centre = inside(rng, stage.drop, typical)
        if centre is None:
            return
        members = int(rng.choice([1, 3, 5, 9, 20], p=[0.25, 0.3, 0.25, 0.13, 0.07]))
        spread = typical * 0.42 * np.sqrt(members)
        if members >= 5 and brown:
            stain(stage, centre, 2.2 * spread, brown * rng.uniform(0.5, 1), rng)
        for number in range(members):
            # From the middle outwards; what is buried in the middle of a large clump is a tangle.
            away = spread * np.sqrt((number + 0.3) / members)
            heading = rng.uniform(0, 2 * np.pi)
            place = centre + away * np.array([np.cos(heading), np.sin(heading)])
            size = typical * rng.uniform(0.6, 1.3)
            buried = members >= 9 and number < members // 3
            lay_solid(
                rng,
                stage,
                layer,
                look._replace(defocus=look.defocus * rng.uniform(1, 1.8)),
                habit,
                place,
                size,
                heading=heading + np.pi / 2,
                least_share=0.4,
                doubtful=buried,
                cut=stage.drop > 0,
            )


def lay_chain(rng: np.random.Generator, stage: Stage, layer: Layer, scale: float) -> None:
    """A chain of crystals along a stretch of the drop's edge, small and tangled at the rim, larger inwards."""
    look = draw_look(rng, scale)
    look = look._replace(contrast=max(look.contrast, 0.6))
    habit = HABITS[rng.integers(len(HABITS))]
    typical = log_uniform(rng, 13, 80) * scale
    rows, columns = np.nonzero((stage.drop[::4, ::4] > 1) & (stage.drop[::4, ::4] < 0.8 * typical))
    if not len(rows):
        return
    middle = rng.integers(len(rows))
    points = np.c_[columns, rows] * 4.0
    reach = rng.uniform(120, 500) * scale
    near = points[np.hypot(*(points - points[middle]).T) < reach]
    for place in near[rng.permutation(len(near))[: int(rng.integers(12, 70))]]:
        depth = stage.drop[int(place[1]), int(place[0])]
        size = float(np.clip(typical * rng.uniform(0.4, 1.2) * (0.5 + depth / typical), 8 * scale, 2 * typical))
        lay_solid(rng, stage, layer, look, habit, place, size, least_share=0.5, cut=stage.drop > 0)
