"""The options of `crystal predict`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Predict:
    """Outline crystals in files or folders: overlays, crystals.csv and predictions.json."""

    weights: Path
    images: tuple[Path, ...]
    out: Path
    score: float = 0.5
    """Crystals under this score are left out of overlays and CSV."""
    labelme: bool = False
    """Also write LabelMe files, to be corrected by hand and trained on."""
