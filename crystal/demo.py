"""`crystal demo`: the paper's experiment on drops that we draw ourselves, in minutes on a laptop.

Renders a dataset, does the experiment of `crystal table1` on it with one seed, and writes a report.

    OUT/data/           the drops
    OUT/table1/         the experiment: runs/0-plain without CLAHE and runs/0-clahe with it, both from the same weights
    OUT/metrics.json    the numbers of both runs
    OUT/report.html     table, curves, predictions and failures
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from crystal.console import console, one_bar
from crystal.errors import CrystalError, require_range
from crystal.files import write_atomically
from crystal.training.options import Table1

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
    """Of the drops."""
    light: float = 0.5
    """How bad the light is, 0 to 1."""

    def __post_init__(self) -> None:
        for name, value, low in (("--train", self.train, 1), ("--val", self.val, 1), ("--seed", self.seed, 0)):
            require_range(name, value, low)
        require_range("--light", self.light, 0, 1)
        if self.steps is not None:
            require_range("--steps", self.steps, 1)


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
        drops = {"train": train, "val": val, "seed": seed, "light": light, "scenes": "simple"}
        render_dataset(data, **drops, progress=lambda done, total: bar(done))
    write_atomically(note, json.dumps(wanted))


def table1_options(options: Demo) -> Table1:
    """Of the demo's experiment."""
    steps = options.steps or STEPS
    validate_every = max(steps // VALIDATIONS, 1)
    return Table1(
        data=options.out / "data",
        out=options.out / "table1",
        seeds=1,
        init="shapes",
        steps=steps,
        set=("image.zooms=(1, 1)", f"validate_every={validate_every}"),  # whole images, as in the paper
    )


def demo(options: Demo) -> int:
    """The whole experiment; what is finished already is not done again."""
    # Imported here: with jax and matplotlib they take seconds, and `crystal --help` comes through this file.
    from crystal.data.dataset import load_split
    from crystal.pages.report import read_run, write_report
    from crystal.pages.table1 import table1_command

    start, out = time.monotonic(), options.out
    out.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out).free < 1 << 30:
        raise DemoError(f"{out} lies on a disk with less than 1 GiB free; make room or choose another --out")
    render(out / "data", train=options.train, val=options.val, seed=options.seed, light=options.light)
    table1_command(table1_options(options))
    runs = {arm: read_run(out / "table1" / "runs" / f"0-{arm}") for arm in ("plain", "clahe")}
    write_atomically(out / "metrics.json", json.dumps({arm: run.numbers for arm, run in runs.items()}, indent=1))
    console.print("drawing the report")
    report = write_report(out / "report.html", runs, load_split(out / "data", "val").records)
    console.print(f"{report} shows pictures and curves; this call took {(time.monotonic() - start) / 60:.1f} minutes")
    return 0
