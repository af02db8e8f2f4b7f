"""What does looking closer cost? `python -m benchmarks.tiles`.

The prediction of one photograph with the weights of `crystal predict`, from decoded pixels to merged outlines: the
whole image alone, and with the tiles that `--zoom auto` looks at.

Writes benchmarks/results/<hardware>-tiles.json.
"""

from pathlib import Path

import tyro

from benchmarks.measuring import in_turns, median, save, show, warn_if_busy
from crystal.console import console
from crystal.drops.drop import draw_drop
from crystal.prediction.package_weights import CRYSTAL
from crystal.prediction.predictor import Predictor
from crystal.prediction.trained_model import load_run
from crystal.prediction.zooms import WHOLE, Zoom


def main(size: tuple[int, int] = (1024, 1224), repeats: int = 5, out: Path | None = None) -> None:
    """Time, print, write.

    Args:
        size: height and width of the photograph, a rendered drop.
        repeats: samples of each.
        out: a file or folder for the results.
    """
    warn_if_busy()
    photograph = draw_drop((7, 0), height=size[0], width=size[1]).image
    model = load_run(CRYSTAL)
    zooms: dict[str, Zoom] = {"whole image": WHOLE, "auto": "auto"}
    predictors = {name: Predictor(model, zoom=zoom) for name, zoom in zooms.items()}
    calls = {name: (lambda p=p: [f.scores for f in p([photograph])]) for name, p in predictors.items()}
    seconds = in_turns(calls, repeats=repeats)
    views = {name: len(p.views(*size)) for name, p in predictors.items()}
    found = {name: len(next(p([photograph])).scores) for name, p in predictors.items()}
    path = save(
        "what does looking closer cost?",
        "tiles",
        settings={"size": size, "repeats": repeats},
        out=out,
        seconds=seconds,
        views=views,
        found=found,
    )
    one = median(seconds["whole image"])
    show(
        f"prediction of a photograph of {size[1]} x {size[0]} pixels",
        ["zoom", "views", "seconds", "of one view"],
        [[n, str(views[n]), f"{median(s):.2f}", f"{median(s) / one:.1f}"] for n, s in seconds.items()],
    )
    console.print(str(path))


if __name__ == "__main__":
    tyro.cli(main)
