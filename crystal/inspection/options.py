"""The options of `crystal inspect`."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class Inspect:
    """Follow one image through the network: a page with every stage's pictures, numbers, times and what they mean."""

    image: tyro.conf.Positional[Path]
    weights: Path
    """A run folder or a checkpoint."""
    out: Path
    """The page, a single HTML file."""
    truth: Path | None = None
    """Ground truth: a LabelMe JSON of the image, or a COCO JSON that lists it, in its dataset; by default the LabelMe
    JSON beside the image, if there is one."""
