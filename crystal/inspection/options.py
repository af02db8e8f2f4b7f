"""The options of `crystal inspect`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from crystal.errors import RangeError, require_range
from crystal.prediction.zooms import parse_zoom


@dataclass
class Inspect:
    """Follow images through the network: a page with every stage's pictures, numbers, times and what they mean."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files; all of them on one page."""
    out: Path
    """The page, a single HTML file."""
    weights: Path | None = None
    """A run folder or a checkpoint; by default the weights that come with the package."""
    score: float = 0.5
    """Crystals below this score are left out of the results, as in `crystal predict`; the stages show what they are."""
    zoom: str = "auto"
    """At which zooms to look, as in `crystal predict`: auto, none, or rising numbers as in 1,2,4. The stages follow the
    whole image."""
    truth: Path | None = None
    """Ground truth of a single image: its LabelMe JSON, or a COCO JSON that lists it, in its dataset; by default the
    LabelMe JSON beside each image, if there is one."""

    def __post_init__(self) -> None:
        require_range("--score", self.score, 0, 1)
        parse_zoom(self.zoom)
        if not self.images:
            raise RangeError("name at least one image")
        if self.truth is not None and len(self.images) > 1:
            raise RangeError("--truth is of one image; with several, each one's LabelMe file beside it is used")
