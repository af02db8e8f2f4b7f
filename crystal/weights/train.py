"""Make the weights of `crystal predict` again: `python -m crystal.weights.train --out FOLDER`.

Draws scenes after real photographs (`crystal render`), plainer drops, whose crystals are larger, and dishes full of
crystals, and trains `tiny` on them from ordinary shapes, as `crystal train` does. Saved in half precision. No
photograph is trained on.
"""

from pathlib import Path

import tyro
from matplotlib.figure import Figure

from crystal.console import one_bar
from crystal.drops.dataset import render_dataset
from crystal.pages.charts import curve, smooth
from crystal.prediction.trained_model import load_run
from crystal.training.log import read_metrics
from crystal.training.options import Train
from crystal.training.train import train_command
from crystal.weights.package import save_for_package

VALIDATION = 20  # a twentieth as many scenes as are trained on
# Twice as many proposals as usual are classified, so that most of those that look like a crystal and are none come up.
SETTING = "roi.targets.samples=96"


def draw_curves(run: Path, out: Path) -> None:
    """An SVG file: the loss of a training, and the mAP on a few validation scenes."""
    figure, metrics = Figure(figsize=(6.4, 2.4), layout="constrained"), read_metrics(run)
    axes = figure.subplots(1, 2)
    for panel, key, marker in ((axes[0], "loss", None), (axes[1], "val_map", "o")):
        panel.plot(*smooth(*curve(metrics, key)), marker=marker, color="#0072b2")
    axes[0].set(title="loss", xlabel="training step", ylim=(0, None))
    axes[1].set(title="mAP at 0.50, validation scenes", xlabel="training step", ylim=(0, 1))
    figure.savefig(out, metadata={"Date": None})


def main(
    out: Path,
    work: Path = Path("runs/weights"),
    scenes: int = 4000,
    plain: int = 1600,
    dense: int = 1500,
    steps: int = 7_000,
    clahe: bool = False,
    seed: int = 33,
    init: str = "shapes",
) -> None:
    """Draw, train, save. An interrupted training in `work` is resumed; `out` is written at the end.

    The curves of the training are in `work`/curves.svg.

    Args:
        out: the new checkpoint folder.
        work: the scenes and the run.
        scenes: how many to train on; a twentieth more are for validation.
        plain: how many plainer drops to train on as well.
        dense: and how many dishes full of crystals.
        steps: of the training, eight views each.
        clahe: equalise the images before the network.
        seed: of the scenes; that of the training is 0.
        init: what the training starts from; with `crystal` the weights of the package are trained on.
    """
    drops, run = work / "scenes", work / "run"
    if not drops.exists():
        validation = scenes // VALIDATION
        with one_bar("drawing scenes", scenes + plain + dense + validation) as bar:
            render_dataset(
                drops,
                train=scenes,
                val=validation,
                seed=seed,
                more={"plain": plain, "dense": dense},
                progress=lambda done, total: bar(done),
            )
    train_command(Train(drops, run, init=init, steps=steps, clahe=clahe, set=(SETTING,)))
    draw_curves(run, work / "curves.svg")
    save_for_package(load_run(run), out)


if __name__ == "__main__":
    tyro.cli(main)
