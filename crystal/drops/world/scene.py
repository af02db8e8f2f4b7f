"""One scene as a real imager might show it, drawn from a seed, with the exact masks of its drops and crystals.

`draw_scene` chooses a camera and a plate (`plates.py`), pours drops (`liquid.py`), lays precipitate, skins and bubbles
into them (`precipitate.py`, `skins.py`), then crystals (`solids.py`, `needles.py`) on a layer that knows who owns which
pixel (`layer.py`), then dirt over all (`fibres.py`), and takes the photograph (`camera.py`). At least a third of the
drops hold no crystal, and in one scene of eleven no drop is in sight.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from crystal.data.outlines import encode_patch
from crystal.drops.stage import Stage, log_uniform
from crystal.drops.world import camera, fibres, needles, plates, precipitate, skins, solids
from crystal.drops.world.layer import Layer
from crystal.drops.world.liquid import Liquid, pour
from crystal.drops.world.plate_marks import plate_marks

CRYSTALS = {
    "few": (solids.lay_few, 0.3),
    "shower": (solids.lay_shower, 0.15),
    "clumps": (solids.lay_clumps, 0.14),
    "chain": (solids.lay_chain, 0.08),
    "needles": (needles.lay_needles, 0.23),
    "thin plates": (needles.lay_thin_plates, 0.1),
}
# What lies in a drop, with its chance where there are crystals and where there are none.
CONTENTS = {
    "grains": (precipitate.grains, 0.25, 0.4),
    "cloud": (precipitate.cloud, 0.07, 0.25),
    "worms": (precipitate.worms, 0.03, 0.15),
    "cracks": (precipitate.cracks, 0.03, 0.13),
    "spherulites": (precipitate.spherulites, 0.02, 0.1),
    "swells": (skins.swells, 0.15, 0.35),
    "folds": (skins.folds, 0.05, 0.2),
    "phases": (skins.phases, 0.08, 0.25),
    "rim marks": (skins.rim_marks, 0.1, 0.2),
    "bubbles": (skins.bubbles, 0.12, 0.2),
    "oil": (skins.oil, 0.04, 0.1),
}
DIRT = {
    "hairs": (fibres.hairs, 0.22),
    "scratches": (fibres.scratches, 0.2),
    "dust": (fibres.dust, 0.75),
    "shadows": (fibres.shadows, 0.4),
    "smear": (fibres.smear, 0.08),
}
WITHOUT_CRYSTALS = 0.42
CLEAR = 0.5  # of the drops without crystals: contents come with a third of their chances, so that many hold nothing
DROPS = (0.84, 0.1, 0.06)  # the chances of one, two and three drops
SATELLITE = 40.0  # pixels of radius, at 1280x960, below which it is open whether liquid is a drop


class SceneObject(NamedTuple):
    """A crystal or drop in a scene.

    mask: its visible part, compressed COCO run lengths.   category: "crystal" or "drop".
    kind: "drop", "satellite", or the crystal's kind.   ignored: whether it is open, so that finding it does not count.
    """

    mask: dict[str, Any]
    category: str
    kind: str
    ignored: bool


class Scene(NamedTuple):
    """A micrograph `image` uint8[h, w, 3] RGB; its drops, then its crystals from the bottom up; what it shows."""

    image: np.ndarray
    instances: tuple[SceneObject, ...]
    features: tuple[str, ...]


def _pour_all(
    rng: np.random.Generator, transmission: np.ndarray, plate: plates.Plate, scale: float
) -> list[tuple[Liquid, str]]:
    """One to three drops and their satellites, poured in place; some may turn out to lie out of sight."""
    if plate.kind == "field":
        return []
    number = int(rng.choice([1, 2, 3], p=DROPS))
    size = {1: (0.3, 0.72), 2: (0.25, 0.42), 3: (0.18, 0.32)}[number]
    if plate.kind == "close":
        size = (size[0] * 1.1, size[1] * 1.4)
    first = rng.uniform(0, 2 * np.pi)
    poured: list[tuple[Liquid, str]] = []
    taken = np.zeros(transmission.shape, bool)

    def add(centre: np.ndarray, radius: float, kind: str) -> None:
        liquid = pour(rng, transmission, plate, scale, centre, radius, taken)
        if liquid is not None:
            taken[liquid.mask] = True
            poured.append((liquid, kind))

    for k in range(number):
        radius = plate.radius * rng.uniform(*size)
        heading = first + 2 * np.pi * k / number + rng.normal(0, 0.2)
        reach = plate.radius * rng.uniform(0.4, 0.6) if number > 1 else abs(rng.normal(0, 0.3)) * plate.radius
        centre = plate.centre + reach * np.array([np.cos(heading), np.sin(heading)])
        add(centre, radius, "drop")
    for _ in range(int(rng.integers(1, 6)) if rng.random() < 0.15 else 0):
        centre = plate.centre + rng.uniform(-0.8, 0.8, 2) * plate.radius
        radius = log_uniform(rng, 5, 60) * scale
        add(centre, radius, "satellite" if radius < SATELLITE * scale else "drop")
    return poured


def _apply(rng: np.random.Generator, painters: dict[str, float], run: Callable[[str], object]) -> list[str]:
    """Run each painter by its chance; the names of those that ran."""
    chosen = [name for name, chance in painters.items() if rng.random() < chance]
    for name in chosen:
        run(name)
    return chosen


def _paint(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> tuple[Stage, list[tuple[Liquid, str]], Layer, list[str]]:
    """Everything before the camera: the stage, the drops and their kinds, the crystals, and what was drawn."""
    plate = plates.draw_plate(rng, shape, scale, str(rng.choice(plates.KINDS, p=plates.SHARES)))
    features = [plate.kind]
    if rng.random() < 0.5 and plate.kind not in ("field", "close"):
        plate_marks(rng, plate.transmission, plate.distance, scale)
        features.append("plate marks")
    style = str(rng.choice(["grey", "tinted", "polarised"], p=[0.34, 0.42, 0.24]))
    tint = camera.draw_tint(rng, shape, style)
    poured = _pour_all(rng, plate.transmission, plate, scale)
    wet = np.minimum(plate.distance, 1e4)
    if plate.kind != "field":
        wet = np.full(shape, -1e4, np.float32)
        for liquid, _ in poured:
            wet = np.maximum(wet, np.where(liquid.mask | (liquid.distance < 0), liquid.distance, -1))
    stage = Stage(plate.transmission, tint, wet.astype(np.float32), style == "polarised")
    bare = rng.random() < WITHOUT_CRYSTALS or not (wet > 0).any()
    dirt = {name: chance for name, (_, chance) in DIRT.items()}
    if wet.max() > 0 and plate.kind != "field":
        share = 1 / 3 if bare and rng.random() < CLEAR else 1.0
        chances = {name: share * chances[bare] for name, (_, *chances) in CONTENTS.items()}
        features += _apply(rng, chances, lambda name: CONTENTS[name][0](rng, stage, scale))
    early = _apply(rng, {name: 0.4 * chance for name, chance in dirt.items()}, lambda n: DIRT[n][0](rng, stage, scale))
    layer = Layer(stage.transmission, scale)
    if not bare:
        names, shares = list(CRYSTALS), [share for _, share in CRYSTALS.values()]
        for name in rng.choice(names, size=1 + (rng.random() < 0.12), replace=False, p=shares):
            CRYSTALS[name][0](rng, stage, layer, scale)
            features.append(str(name))
    late = _apply(rng, {name: 0.75 * chance for name, chance in dirt.items()}, lambda n: DIRT[n][0](rng, stage, scale))
    return stage, poured, layer, [*features, *dict.fromkeys(early + late), style]


def draw_scene(
    seed: int | tuple[int, ...], *, height: int | None = None, width: int | None = None, light: float = 0.5
) -> Scene:
    """Draw one scene.

    Args:
        seed: a number or a tuple of numbers, none negative; equal seeds draw equal scenes.
        height: of the image, in pixels; None for that of one of `camera.SIZES`.
        width: the same; give both or neither.
        light: how bad the light is on the whole, 0 to 1; each scene varies around it. It never moves anything.

    Returns:
        The image, its drops and crystals, and the names of what was drawn.

    Raises:
        ValueError: light is out of range, or only one of height and width is given.
    """
    rng, optics, shape = camera.begin(seed, height, width, light)
    # Some imagers look closer: what others show as a whole fills several of their pictures.
    closer = log_uniform(rng, 1, 2.2) if rng.random() < 0.3 else 1.0
    scale = min(shape[0] / 960, shape[1] / 1280) * closer
    stage, poured, layer, features = _paint(rng, shape, scale)
    objects = []
    for liquid, kind in poured:
        rows, columns = (np.flatnonzero(liquid.mask.any(axis)) for axis in (1, 0))
        patch = liquid.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        rle = encode_patch(patch, int(rows[0]), int(columns[0]), height=shape[0], width=shape[1])
        objects.append(SceneObject(rle, "drop", kind, kind == "satellite"))
    for crystal in layer.crystals():
        rle = encode_patch(crystal.patch, crystal.top, crystal.left, height=shape[0], width=shape[1])
        objects.append(SceneObject(rle, "crystal", crystal.kind, crystal.doubtful))
    image = camera.photograph(optics, stage, light)
    if optics.random() < 0.1:
        camera.burn_in(optics, image)
        features.append("burnt in")
    if optics.random() < 0.35:
        image = camera.compress(optics, image)
    return Scene(image, tuple(objects), tuple(features))
