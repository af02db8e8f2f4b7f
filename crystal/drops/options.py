"""The options of `crystal render`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crystal.errors import require_range


@dataclass
class Render:
    """Draw drops with exact masks: images, a LabelMe JSON beside each, one COCO JSON a split."""

    out: Path
    """A new folder."""
    train: int
    """Number of training drops."""
    val: int
    """Number of validation drops, all different from the training drops."""
    seed: int = 0
    """Equal seeds give equal files."""
    light: float = 0.5
    """How bad the light is, 0 to 1; masks do not depend on it."""
    scenes: Literal["world", "dense", "simple"] = "world"
    """`world` is drawn after real photographs: many cameras and plates, crystals from faint needles to showers, much
    that is none, drops without crystals, and drops as objects of their own; `dense` is a microscope's view of crystals
    all over the picture; `simple` has clear crystals in a drop of 1000x800 pixels."""

    def __post_init__(self) -> None:
        for name, value in (("--train", self.train), ("--val", self.val), ("--seed", self.seed)):
            require_range(name, value, 0)
        require_range("--light", self.light, 0, 1)
