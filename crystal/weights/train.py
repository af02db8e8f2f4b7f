"""Make the weights of `crystal predict` again: `python -m crystal.weights.train --out FOLDER`.

Draws scenes after real photographs (`crystal render`) and trains `tiny` on them as `crystal train` does, from ordinary
shapes; then on from there, at a lower rate, with plainer drops among them, whose crystals are larger. Saved in half
precision. No photograph is trained on.
"""

from collections.abc import Sequence
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


def draw_curves(runs: Sequence[Path], out: Path) -> None:
    """An SVG file: the loss of trainings one after the other, and the mAP on a few validation scenes."""
    figure, done = Figure(figsize=(6.4, 2.4), layout="constrained"), 0.0
    axes = figure.subplots(1, 2)
    for run in runs:
        metrics = read_metrics(run)
        for panel, key, marker in ((axes[0], "loss", None), (axes[1], "val_map", "o")):
            steps, values = smooth(*curve(metrics, key))
            panel.plot(done + steps, values, marker=marker, color="#0072b2")
        done += max(line["step"] for line in metrics)
    axes[0].set(title="loss", xlabel="training step", ylim=(0, None))
    axes[1].set(title="mAP at 0.50, 20 validation scenes", xlabel="training step", ylim=(0, 1))
    figure.savefig(out, metadata={"Date": None})


def main(
    out: Path,
    work: Path = Path("runs/weights"),
    scenes: int = 4000,
    plain: int = 1600,
    steps: tuple[int, int] = (1600, 2600),
    clahe: bool = False,
    seed: int = 33,
) -> None:
    """Draw, train, train on, save. Interrupted runs in `work` are resumed; `out` is written at the end.

    The curves of both trainings are in `work`/curves.svg.

    Args:
        out: the new checkpoint folder.
        work: scenes and runs.
        scenes: how many to train on; a twentieth more are for validation.
        plain: how many plainer drops the second training sees as well.
        steps: of the two trainings, eight views each.
        clahe: equalise the images before the network.
        seed: of scenes; that of the trainings is 0.
    """
    world, both, first, last = (work / name for name in ("world", "both", "first", "last"))
    for drops, more in ((world, 0), (both, plain)):
        if not drops.exists():
            with one_bar("drawing scenes", scenes + more + scenes // VALIDATION) as bar:
                render_dataset(
                    drops,
                    train=scenes,
                    val=scenes // VALIDATION,
                    seed=seed,
                    plain=more,
                    progress=lambda done, total, bar=bar: bar(done),
                )
    train_command(Train(world, first, init="shapes", steps=steps[0], clahe=clahe))
    train_command(Train(both, last, init=str(first), steps=steps[1], learning_rate=1e-3, clahe=clahe))
    draw_curves((first, last), work / "curves.svg")
    save_for_package(load_run(last), out)


if __name__ == "__main__":
    tyro.cli(main)
