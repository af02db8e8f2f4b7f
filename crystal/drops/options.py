"""The options of `crystal render`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Render:
    """Draw drops with exact masks: images, a LabelMe JSON beside each, one COCO JSON a split."""

    out: Path
    train: int
    val: int
    seed: int = 0
    light: float = 0.5
    """How bad the light is, 0 to 1; masks do not depend on it."""
