"""The options of `crystal evaluate`."""

from dataclasses import dataclass
from pathlib import Path

from crystal.errors import require_range
from crystal.prediction.zooms import parse_zoom


@dataclass
class Evaluate:
    """Measure a run on DATASET/val: the paper's mAP, precision and recall, and COCO's numbers."""

    data: Path
    weights: Path | None = None
    """A run folder or a checkpoint; by default the weights that come with the package."""
    split: str = "val"
    seed: int = 0
    """Selects the 10 and the 100 images of the paper's table."""
    zoom: str = "auto"
    """At which zooms to look, as in predict: auto, none, or 1,2,4."""
    crowds_as_objects: bool = False
    """Take annotations with iscrowd 1 for objects, as in train."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def __post_init__(self) -> None:
        require_range("--seed", self.seed, 0)
        parse_zoom(self.zoom)
