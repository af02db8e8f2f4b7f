"""A dish full of crystals, as a microscope shows it: no drop, crystals all over the picture, on and across each other.

Solids of one or two habits and any size, dark ones beside mere outlines (`crystals.py`), or a thicket of striped laths.
They let what lies below them be seen, so, unlike in `scene.py`, an object's mask is its whole outline, and masks
overlap: that is how people outline such pictures.
"""

from typing import NamedTuple

import numpy as np
from cv2 import GaussianBlur

from crystal.data.outlines import encode_patch
from crystal.drops.crystals import grow, settle, transmit
from crystal.drops.stage import Stage, inside, log_uniform, noise
from crystal.drops.world import camera, fibres
from crystal.drops.world.layer import LEAST_CHANGE, LEAST_PIXELS
from crystal.drops.world.scene import Scene, SceneObject
from crystal.drops.world.solids import HABITS, draw_look, flaws

MOST = 350  # crystals in a picture
THICKETS = 0.3  # of the pictures
LEAST_CLEAR = 0.25  # share of an outline with nothing on it below which nobody could tell it
FAR = 1e4  # pixels to the edge of the drop: there is none


class _Laid(NamedTuple):
    """A crystal: its place, its mask bool[ph, pw] there, its kind, and how much it changes the light on average."""

    rows: slice
    columns: slice
    mask: np.ndarray
    kind: str
    change: float


def _lay(stage: Stage, rows: slice, columns: slice, mask: np.ndarray, light: np.ndarray, kind: str) -> _Laid:
    """Multiply what a crystal lets through, `light` float32[ph, pw], into its place."""
    part = stage.transmission[rows, columns]
    before = part.copy()
    part *= light
    return _Laid(rows, columns, mask, kind, float(np.abs(part - before)[mask].mean()))


def _solid(
    rng: np.random.Generator, stage: Stage, kind: str, centre: np.ndarray, size: float, scale: float
) -> _Laid | None:
    """One solid `size` pixels long at `centre` (x, y); None where nothing of it is in the picture."""
    part = grow(rng, kind, size)
    patch = settle(rng, [part], centre, stage.transmission.shape)
    if patch is None:
        return None
    look = draw_look(rng, scale)
    look = look._replace(
        defocus=look.defocus * rng.choice([1, 1.5, 3], p=[0.75, 0.18, 0.07]),
        contrast=log_uniform(rng, 0.25, 1.2),
    )
    light = transmit(rng, [part], centre, (patch.columns.start, patch.rows.start), patch.mask.shape, look)
    if rng.random() < 0.5:  # grown through with flaws, or thick: dark all over
        dark = 1 - log_uniform(rng, 0.1, 0.55) * (1 + 0.3 * noise(rng, patch.mask.shape, max(0.15 * size, 3)))
        light *= GaussianBlur(np.where(patch.mask, np.clip(dark, 0.3, 1), 1).astype(np.float32), (0, 0), look.defocus)
    flaws(rng, light, patch.mask, size)
    return _lay(stage, patch.rows, patch.columns, patch.mask, light, kind)


def _lath(
    rng: np.random.Generator, stage: Stage, centre: np.ndarray, length: float, width: float, scale: float
) -> _Laid | None:
    """A striped bar `length` x `width` pixels at `centre` (x, y); None where nothing of it is in the picture."""
    heading, slant = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8)
    along = np.array([np.cos(heading), np.sin(heading)])
    reach = np.abs(along) * (length + abs(slant) * width) / 2 + np.abs(along[::-1]) * width / 2 + 6 * scale
    height, wide = stage.transmission.shape
    low = np.clip(np.floor(centre - reach).astype(int), 0, [wide, height])
    high = np.clip(np.ceil(centre + reach).astype(int), 0, [wide, height])
    if (high - low < 2).any():
        return None
    x, y = np.arange(low[0], high[0]) + 0.5 - centre[0], (np.arange(low[1], high[1]) + 0.5 - centre[1])[:, None]
    u, v = x * along[0] + y * along[1], y * along[0] - x * along[1]
    # Narrower towards its ends, which are cut at an angle.
    half = 0.5 * width * (1 - rng.uniform(0, 0.6) * np.abs(2 * u / length) ** rng.choice([1, 3]))
    ends = 0.5 * length - np.abs(u + slant * v)
    depth = np.minimum(half - np.abs(v), ends)  # pixels inside its outline
    mask = depth > 0
    if not mask.any():
        return None
    stripes = np.interp(v, np.linspace(-width, width, 40), rng.normal(0, 1, 40))
    strength, body = rng.uniform(0, 0.16), log_uniform(rng, 0.04, 0.5)
    edge = rng.uniform(0.1, 0.6) * np.exp(-((depth / (rng.uniform(0.8, 2) * scale)) ** 2))
    slow = 1 + 0.3 * noise(rng, mask.shape, max(0.25 * length, 8))
    light = np.where(mask, 1 - body * slow - strength * stripes, 1) * (1 - edge)
    blur = max(rng.uniform(0.5, 1.2) * scale, 0.4) * rng.choice([1, 2, 5], p=[0.8, 0.13, 0.07])
    light = np.clip(GaussianBlur(light.astype(np.float32), (0, 0), blur), 0.08, 1.3)
    return _lay(stage, slice(low[1], high[1]), slice(low[0], high[0]), mask, light, "lath")


def _strew(rng: np.random.Generator, stage: Stage, scale: float) -> list[_Laid]:
    """Lay crystals over the picture until they cover as much of it as was drawn by chance."""
    shape = stage.transmission.shape
    thicket = rng.random() < THICKETS
    usual, other = HABITS[rng.integers(len(HABITS))], HABITS[rng.integers(len(HABITS))]
    typical = log_uniform(rng, 9, 40) * scale if thicket else log_uniform(rng, 26, 150) * scale
    spread, aspect = rng.uniform(0.2, 0.6), log_uniform(rng, 3.5, 14)
    wanted = log_uniform(rng, 0.15, 1.1) * shape[0] * shape[1]
    where = stage.drop
    if rng.random() < 0.6:  # denser in parts
        where = np.where(noise(rng, shape, rng.uniform(200, 500) * scale) > rng.uniform(-1, 0), FAR, 0)
    laid: list[_Laid] = []
    covered = 0
    for _ in range(MOST):
        centre = inside(rng, where if rng.random() < 0.85 else stage.drop, 0)
        if centre is None or covered > wanted:
            break
        size = float(np.clip(typical * np.exp(rng.normal(0, spread)), 7 * scale, 420 * scale))
        if thicket:
            length = min(size * aspect * np.exp(rng.normal(0, 0.3)), 800 * scale)
            one = _lath(rng, stage, centre, length, min(size, 0.5 * length), scale)
        else:
            one = _solid(rng, stage, usual if rng.random() < 0.75 else other, centre, size, scale)
        if one is not None:
            laid.append(one)
            covered += int(one.mask.sum())
    return laid


def draw_dense(
    seed: int | tuple[int, ...], *, height: int | None = None, width: int | None = None, light: float = 0.5
) -> Scene:
    """Draw one such picture; arguments, result and errors are those of `draw_scene`. There are no drops in it."""
    rng, optics, shape = camera.begin(seed, height, width, light)
    scale = min(shape[0] / 960, shape[1] / 1280)
    style = str(rng.choice(["grey", "tinted"], p=[0.6, 0.4]))
    ground = (1 + rng.uniform(0, 0.05) * noise(rng, shape, 0.3 * shape[0])).astype(np.float32)
    stage = Stage(ground, camera.draw_tint(rng, shape, style), np.full(shape, FAR, np.float32), False)
    fibres.dust(rng, stage, scale)
    laid = _strew(rng, stage, scale)
    above = np.zeros(shape, bool)
    objects: list[SceneObject] = []
    for one in reversed(laid):
        over = above[one.rows, one.columns]
        buried = float((~over)[one.mask].mean()) < LEAST_CLEAR
        tiny = int(one.mask.sum()) < LEAST_PIXELS * scale**2
        over |= one.mask
        rle = encode_patch(one.mask, one.rows.start, one.columns.start, height=shape[0], width=shape[1])
        objects.append(SceneObject(rle, "crystal", one.kind, buried or tiny or one.change < LEAST_CHANGE))
    image = camera.photograph(optics, stage, light)
    if optics.random() < 0.3:
        camera.burn_in(optics, image)
    if optics.random() < 0.35:
        image = camera.compress(optics, image)
    return Scene(image, tuple(reversed(objects)), ("dense", style))
