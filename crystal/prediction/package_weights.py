"""The weights that come with the package."""

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "weights"
CRYSTAL = _FOLDER / "crystal"  # crystals and drops; made by `python -m crystal.weights.train`
SHAPES = _FOLDER / "shapes"  # ordinary shapes; made by `python -m crystal.weights.pretrain`
NAMED = {"crystal": CRYSTAL, "shapes": SHAPES}  # as `--init` calls them
