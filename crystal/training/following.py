"""The settings of a run that follow from its data where nobody fixes them: zooms, slots, steps, warm-up, validation."""

import dataclasses
import math
from collections.abc import Collection, Sequence

from crystal.data.crops import zoom_range
from crystal.data.dataset import Record
from crystal.training.config import TrainConfig

VIEWS = 1000  # that it takes to show all images once, for which a preset's steps are meant
FEWEST, MOST = 300, 20_000  # steps
MOST_SLOTS = 64  # more cost every step: with 128, a fifth of its time
VALIDATIONS = 4  # during a run, the last one at its end


def views_of_all(records: Sequence[Record], zooms: tuple[float, float]) -> float:
    """How many views have as many pixels as all images: for each the mean of zoom squared, zooms even in logarithm.

    >>> round(views_of_all([None] * 10, (1.0, 1.0))), round(views_of_all([None] * 10, (1.0, 2.0)))
    (10, 22)
    """
    low, high = zooms
    mean = low * low if high <= low else (high**2 - low**2) / (2 * math.log(high / low))
    return len(records) * mean


def fixed_by(assignments: Collection[str], steps: int | None = None) -> set[str]:
    """What does not follow the data because `--set` or `--steps` says it.

    >>> sorted(fixed_by(("warmup=3", "phases.0.steps=20")))
    ['phases', 'steps', 'warmup']
    """
    keys = [assignment.partition("=")[0].strip() for assignment in assignments]
    of_phases = any(key == "phases" or (key.startswith("phases.") and key.endswith(".steps")) for key in keys)
    return {key.split(".")[0] for key in keys} | ({"steps"} if steps is not None or of_phases else set())


def follow(config: TrainConfig, records: Sequence[Record], fixed: Collection[str]) -> TrainConfig:
    """A preset, for these images.

    The zooms reach from the whole image to where small objects have a size that anchors reach; the slots hold all
    objects of the fullest image, up to MOST_SLOTS; the number of steps grows with the square root of the number of
    views; the warm-up is a tenth of them, and validation comes VALIDATIONS times.

    Args:
        config: with `image.zooms` None and `slots` 0 where they are to follow; `phases` for VIEWS views.
        records: of the training split.
        fixed: of "steps", "warmup" and "validate_every" those that stay as they are.
    """
    zooms = config.model.image.zooms or zoom_range(records, config.model.image.size, config.model.anchors.sizes)
    image = dataclasses.replace(config.model.image, zooms=zooms)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, image=image))
    if not config.slots:
        fullest = max((len(record.instances) for record in records), default=0)
        config = dataclasses.replace(config, slots=min(max(16 * math.ceil(fullest / 16), 16), MOST_SLOTS))
    if "steps" not in fixed:
        steps = config.steps * math.sqrt(views_of_all(records, zooms) / VIEWS)
        config = config.with_steps(round(min(max(steps, FEWEST), MOST)))
    if "warmup" not in fixed:
        shortest = min(phase.steps for phase in config.phases)
        config = dataclasses.replace(config, warmup=min(config.warmup, shortest // 10))
    if config.validate_every and "validate_every" not in fixed:
        config = dataclasses.replace(config, validate_every=math.ceil(config.steps / VALIDATIONS))
    return config


def in_words(config: TrainConfig) -> str:
    """What a run will do, in one line."""
    zooms = config.model.image.zooms or (1.0, 1.0)
    height, width = config.model.image.size
    shown = "whole images" if zooms[1] == 1 else f"views at zooms {zooms[0]:g} to {zooms[1]:g}"
    validated = f", validation every {config.validate_every}" if config.validate_every else ""
    return (
        f"{config.steps} steps of {config.batch_size} {shown} at {width} x {height} pixels, {config.slots} slots, "
        f"{config.warmup} steps of warm-up{validated}"
    )
