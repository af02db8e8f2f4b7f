"""`crystal demo`: the paper's experiment on drops that we draw ourselves, in minutes on a laptop.

Renders a dataset, trains twice from the same weights, order and budget, without and with CLAHE, evaluates both on
held-out drops, prints the paper's table and writes a report. The two trainings are ordinary `crystal train` processes
that run side by side, since one of them keeps little more than one CPU core busy.
"""

import contextlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from crystal.console import Bars, console, one_bar
from crystal.errors import CrystalError
from crystal.evaluation.table1 import MEASURES
from crystal.files import write_atomically
from crystal.training.options import Train
from crystal.training.parallel_runs import Training, train_side_by_side
from crystal.training.log import read_metrics

RUNS = {"plain": False, "clahe": True}  # name of the run -> CLAHE
STEPS = 420  # of each training, about 8 minutes for both on two cores
VALIDATIONS = 5  # points of the mAP curve


@dataclass
class Demo:
    """Render drops, train without and with CLAHE, evaluate both, print the paper's table, write a report."""

    out: Path = Path("runs/demo")
    steps: int | None = None
    """Training steps of each of the two runs; the default fits a 2-core machine and 15 minutes."""
    train: int = 400
    """Drops to train on."""
    val: int = 120
    """Held-out drops to evaluate on."""
    seed: int = 0
    light: float = 0.5
    """How bad the light is, 0 to 1."""


class DemoError(CrystalError, RuntimeError):
    """A demo that cannot go on; the message says why and what to do."""


def render(data: Path, *, train: int, val: int, seed: int, light: float) -> None:
    """Draw the drops unless they are there already."""
    from crystal.drops.dataset import render_dataset

    wanted = {"train": train, "val": val, "seed": seed, "light": light}
    note = data.parent / "drops.json"
    if data.exists() and note.exists() and json.loads(note.read_text()) == wanted:
        console.print(f"{data}: already rendered")
        return
    if data.exists():
        raise DemoError(
            f"{data} holds other drops than this command renders; remove {data.parent} or choose another --out"
        )
    with one_bar("rendering", train + val) as bar:
        render_dataset(data, train=train, val=val, seed=seed, light=light, progress=lambda done, total: bar(done))
    write_atomically(note, json.dumps(wanted))


def _training(out: Path, name: str, *, steps: int, seed: int) -> Training:
    every = max(steps // VALIDATIONS, 1)
    options = Train(
        data=out / "data",
        out=out / name,
        init="shapes",
        steps=steps,
        seed=seed,
        clahe=RUNS[name],
        set=(f"validate_every={every}",),
    )
    return Training(name, options, steps)


def train_both(out: Path, *, steps: int, seed: int) -> dict[str, float]:
    """Train the runs side by side, a bar each; returns the seconds that each took in this call."""
    trainings = [_training(out, name, steps=steps, seed=seed) for name in RUNS]
    with (
        Bars() as bars,
        contextlib.closing(train_side_by_side(trainings, bars=bars, compiled=out / "compiled")) as ended,
    ):
        return {training.name: seconds for training, seconds in ended}


def evaluate_both(out: Path, seconds: dict[str, float], *, steps: int, seed: int):
    """Numbers and per-image results of both runs on the held-out drops."""
    from crystal.data.dataset import load_split
    from crystal.evaluation.assessment import assess, without_nan
    from crystal.pages.report import ImageResult, RunView
    from crystal.prediction.predictor import Predictor
    from crystal.prediction.trained_model import load_run

    split = load_split(out / "data", "val")
    numbers, views = {}, {}
    for name in RUNS:
        model, clahe = load_run(out / name)
        with one_bar(f"evaluating {name}", len(split.records)) as bar:
            assessment = assess(Predictor(model, clahe=clahe), split, seed=seed, progress=bar)
        numbers[name] = {**without_nan(assessment.numbers), "steps": steps, "seconds": round(seconds[name], 1)}
        images = [
            ImageResult(record.path, truth, prediction)
            for record, truth, prediction in zip(
                assessment.records, assessment.truths, assessment.predictions, strict=True
            )
        ]
        views[name] = RunView(read_metrics(out / name), images)
    return numbers, views


def print_table(numbers: dict[str, dict]) -> None:
    """Table 1 of the paper, with our figures; the paper's own beside, which are of MARCO photographs."""
    table = Table(title="mAP over images, by mask IoU", title_justify="left")
    for column in ("images", "IoU", "without CLAHE", "with CLAHE", "paper without", "paper with"):
        table.add_column(column, justify="left" if column == "images" else "right")
    for key, count, iou in (
        ("map_050_10", "10", "0.50"),
        ("map_065_100", "100", "0.65"),
        ("map_050_100", "100", "0.50"),
    ):
        ours = [f"{numbers[name][key]:.3f}" if numbers[name][key] is not None else "-" for name in RUNS]
        paper = MEASURES[key].paper if key in MEASURES else None
        theirs = [f"{value:.3f}" for value in paper] if paper else ["-", "-"]
        count = str(int(numbers["clahe"][f"images_of_{count}"]))
        table.add_row(count, iou, *ours, *theirs)
    console.print(table)
    console.print("The paper's figures are of MARCO photographs: beside, not against, ours.")


def demo(options: Demo) -> int:
    """The whole experiment; what is finished already is not done again."""
    from crystal.pages.report import write_report

    start = time.monotonic()
    out, steps = options.out, options.steps or STEPS
    out.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out).free < 1 << 30:
        raise DemoError(f"{out} lies on a disk with less than 1 GiB free; make room or choose another --out")
    render(out / "data", train=options.train, val=options.val, seed=options.seed, light=options.light)
    seconds = train_both(out, steps=steps, seed=options.seed)
    numbers, views = evaluate_both(out, seconds, steps=steps, seed=options.seed)
    write_atomically(out / "metrics.json", json.dumps(numbers, indent=1))
    print_table(numbers)
    with one_bar("report", 1) as bar:
        report = write_report(out, results=numbers, runs=views)
        bar(1)
    console.print(f"{report} shows pictures and curves; {(time.monotonic() - start) / 60:.1f} minutes in all")
    return 0
