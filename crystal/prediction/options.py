"""The options of `crystal predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crystal.errors import CrystalError, require_range
from crystal.prediction.calibration import Calibration, calibration_of
from crystal.prediction.zooms import parse_zoom

Page = Literal["first", "sharpest"] | int  # as crystal.data.images.Page, which would load OpenCV


@dataclass
class Predict:
    """Outline crystals in files or folders: overlays, tables of crystals and drops, and a page to look through."""

    images: tuple[Path, ...]
    """Image files, or folders searched at any depth."""
    out: Path
    """The folder for the results; those of an earlier run are replaced when all images are done."""
    weights: Path | None = None
    """A run folder or a checkpoint; by default the weights that come with the package."""
    score: float = 0.5
    """Crystals below this score are left out of overlays and CSV; predictions.json holds those as well."""
    page: Page = "sharpest"
    """Which page of a TIFF file: first, the sharpest of those of the first one's size, or a number from 1 on."""
    zoom: str = "auto"
    """At which zooms to look: 1, the whole image, and overlapping tiles of higher ones, in which small crystals come
    large, as in 1,2,4; none is the whole image alone; auto takes 2 x 2, 4 x 4, ... tiles, up to the image's own
    pixels."""
    labelme: bool = False
    """Also write LabelMe files, to be corrected by hand and trained on."""
    um_per_pixel: float | None = None
    """Micrometres a pixel: the tables and the page then give sizes in micrometres, too."""
    imager: str | None = None
    """An imager whose scale is known, instead of --um-per-pixel: xchem."""
    outside: bool = False
    """Also count and draw crystals outside the drop; of use where the weights know drops."""
    watch: bool = False
    """Keep running on one folder, which an imager fills: each new picture is predicted once, until Ctrl-C."""

    def __post_init__(self) -> None:
        require_range("--score", self.score, 0, 1)
        if self.score != round(self.score, 2):  # the page's slider has steps of 0.01, and its counts are the tables'
            raise CrystalError(f"--score {self.score}: write at most two decimals")
        parse_zoom(self.zoom)
        if isinstance(self.page, int):
            require_range("--page", self.page, 1)
        if self.um_per_pixel is not None:
            require_range("--um-per-pixel", self.um_per_pixel, 0, above=True)
        _ = self.calibration
        if not self.images:
            raise CrystalError("--images names nothing; give image files or folders")
        if self.watch and len(self.images) != 1:
            raise CrystalError(f"--watch looks at one folder, and --images names {len(self.images)}; give one")

    @property
    def calibration(self) -> Calibration:
        """Micrometres a pixel, where they are known."""
        return calibration_of(self.um_per_pixel, self.imager)
