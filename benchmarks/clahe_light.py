"""What does CLAHE do as the light gets worse? `python -m benchmarks.clahe_light [--seeds 3]`.

Renders the same drops under even, middling and bad light (`crystal render --light`, 0, 0.5 and 1: nothing moves but
the light) and runs the paper's Table 1 on each with `crystal table1`: the tiny network from the weights of the package,
trained briefly with and without CLAHE, for several seeds. At the middle light it is also trained from random weights,
to see what those of the package are worth.

Writes benchmarks/results/<hardware>-clahe-light.json and docs/pictures/clahe_light.png. The same command goes on where
it stopped, and more --seeds are added to what is there.
"""

import json
from pathlib import Path
from typing import Any

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measuring import save, warn_if_busy
from crystal.console import console
from crystal.demo import render
from crystal.pages.charts import LINES
from crystal.pages.table1 import table1_command
from crystal.training.options import Table1

ROOT = Path(__file__).parent.parent
SHOWN = (("map_050_all", "mAP, IoU 0.50"), ("map_065_all", "mAP, IoU 0.65"))
SCRATCH_AT = 0.5


def _arms(axes: Axes, found: dict[str, Any], key: str, title: str) -> None:
    """Both arms over the light: lines through the means, a dot a seed."""
    lights = [float(light) for light in found]
    for (arm, name), (colour, dash) in zip((("plain", "without CLAHE"), ("clahe", "with CLAHE")), LINES, strict=True):
        measured = [one["measures"][key]["arms"][arm] for one in found.values()]
        axes.plot(lights, [one["mean"] for one in measured], color=colour, ls=dash, label=name)
        for light, one in zip(lights, measured, strict=True):
            axes.plot([light] * len(one["by_seed"]), one["by_seed"], "o", color=colour, markersize=3.5)
    axes.set(title=title, ylim=(0, 1), xlabel="light, from even to bad", xticks=lights)
    axes.legend(frameon=False)


def _difference(axes: Axes, found: dict[str, Any]) -> None:
    """What CLAHE changes, with the widest interval that there is."""
    for place, ((key, name), (colour, _)) in enumerate(zip(SHOWN, LINES, strict=True)):
        for light, one in found.items():
            change, at = one["measures"][key]["differences"]["clahe"], float(light) + 0.03 * (place - 0.5)
            low, high = change["interval_images_and_seeds" if one["seeds"] > 1 else "interval_images"]
            axes.plot((at, at), (low, high), color=colour, linewidth=2)
            axes.plot(at, change["mean"], "o", color=colour, label=name if light == next(iter(found)) else None)
    axes.axhline(0, color="#666", linewidth=1)
    axes.set(title="with CLAHE less without, 95 %", xlabel="light, from even to bad")
    axes.set_xticks([float(light) for light in found])
    axes.legend(frameon=False)


def draw(found: dict[str, Any], path: Path) -> None:
    """The picture: both arms at two thresholds, and their difference."""
    figure = Figure(figsize=(11, 3.4), layout="constrained", dpi=110)
    axes = figure.subplots(1, 3)
    for (key, title), own in zip(SHOWN, axes, strict=False):
        _arms(own, found, key, title)
    _difference(axes[2], found)
    for own in axes:
        own.spines[["top", "right"]].set_visible(False)
        own.grid(alpha=0.25)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def main(
    work: Path = Path("runs/clahe_light"),
    lights: tuple[float, ...] = (0.0, 0.5, 1.0),
    seeds: int = 3,
    steps: int = 100,
    size: tuple[int, int] = (192, 256),
    batch: int = 4,
    train: int = 200,
    val: int = 120,
    at_once: int = 2,
    out: Path | None = None,
) -> None:
    """Render, train, measure, draw.

    Args:
        work: drops and runs.
        lights: levels, each 0 to 1.
        seeds: trainings of each kind.
        steps: of each training.
        size: height and width of the images for the network; the preset's own is (256, 320).
        batch: images a step.
        train: drops to train on.
        val: drops to measure on.
        at_once: trainings side by side.
        out: a file or folder for the results; the picture goes to docs/ only without it.
    """
    warn_if_busy()
    found: dict[str, Any] = {}
    for light in lights:
        folder = work / f"{light:g}"
        folder.mkdir(parents=True, exist_ok=True)
        render(folder / "data", train=train, val=val, seed=11, light=light)
        table1_command(
            Table1(
                data=folder / "data",
                out=folder / "table1",
                seeds=seeds,
                init="shapes",
                steps=steps,
                set=("image.zooms=(1, 1)", f"batch_size={batch}", f"image.size={size}"),
                scratch=light == SCRATCH_AT,
                at_once=at_once,
            )
        )
        results = json.loads((folder / "table1" / "table1.json").read_text())
        del results["settings"]["data"]  # a path of this machine
        found[f"{light:g}"] = {key: results[key] for key in ("seeds", "settings", "measures", "seconds")}
    settings = {"steps": steps, "image_size": size, "batch_size": batch, "train": train, "val": val}
    question = "what does CLAHE do to the paper's mAP as the light gets worse?"
    path = save(question, "clahe-light", settings=settings, out=out, by_light=found)
    picture = (path.parent if out else ROOT / "docs" / "pictures") / "clahe_light.png"
    draw(found, picture)
    console.print(f"{path}, and {picture}")


if __name__ == "__main__":
    tyro.cli(main)
