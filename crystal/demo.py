"""`crystal demo`: the paper's experiment on drops that we draw ourselves, in minutes on a laptop.

Renders a dataset, trains twice from the same weights, order and budget, without and with CLAHE, evaluates both on
held-out drops, prints the paper's table and writes a report. The two trainings are ordinary `crystal train` processes
that run side by side, since one of them keeps little more than one CPU core busy.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.table import Table

from crystal.errors import CrystalError
from crystal.progress import Bars, console, one_bar
from crystal.run_folder import read_metrics, write_atomically

RUNS = {"plain": False, "clahe": True}  # name of the run -> CLAHE
STEPS = 420  # of each training, about 8 minutes for both on two cores
VALIDATIONS = 5  # points of the mAP curve
PAPER = {"map_050_10": (0.668, 0.703), "map_065_100": (0.302, 0.430)}  # Crystals 2021, Table 1: without, with CLAHE
GRACE_S = 20  # for a child that was asked to stop to write its checkpoint; compiling it cannot hear


class DemoError(CrystalError, RuntimeError):
    """A demo that cannot go on; the message says why and what to do."""


def render(data: Path, *, train: int, val: int, seed: int, light: float) -> None:
    """Draw the drops unless they are there already."""
    from crystal.render import render_dataset

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


def _command(out: Path, name: str, *, steps: int, seed: int) -> list[str]:
    clahe = "--clahe" if RUNS[name] else "--no-clahe"
    every = max(steps // VALIDATIONS, 1)
    return [
        *(sys.executable, "-m", "crystal", "train", "--data", str(out / "data"), "--out", str(out / name)),
        *("--preset", "tiny", "--init", "shapes", "--steps", str(steps), "--seed", str(seed), clahe),
        *("--set", f"validate_every={every}"),
    ]


def _give_cores(process: subprocess.Popen, index: int, count: int) -> None:
    """Its own share of the cores, where the system lets us say so: two XLA thread pools on the same cores get in each
    other's way.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = cores[index::count] or cores
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, share)


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-12:]
    return f"the end of {log} is\n" + "\n".join(lines)


def train_both(out: Path, *, steps: int, seed: int) -> dict[str, float]:
    """Train the runs side by side, a bar each; returns the seconds that each took in this call."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # on a GPU the two share its memory
        "JAX_COMPILATION_CACHE_DIR": str((out / "compiled").absolute()),  # a run taken up again starts at once
    }
    processes: dict[str, subprocess.Popen] = {}
    seconds: dict[str, float] = {}
    start = time.monotonic()
    try:
        for index, name in enumerate(RUNS):
            with (out / f"{name}.log").open("a") as log:
                processes[name] = subprocess.Popen(
                    _command(out, name, steps=steps, seed=seed), stdout=log, stderr=subprocess.STDOUT, env=environment
                )
            _give_cores(processes[name], index, len(RUNS))
        with Bars() as bars:
            shown = {name: bars.add(f"training {name}", steps) for name in RUNS}
            while len(seconds) < len(RUNS):
                time.sleep(0.5)
                for name, process in processes.items():
                    code = process.poll()
                    lines = read_metrics(out / name)
                    trained = [line for line in lines if "loss" in line]
                    scores = [line["val_map"] for line in lines if line.get("val_map") is not None]
                    note = f"loss {trained[-1]['loss']:.2f}" if trained else "compiling, about a minute"
                    note += f", mAP {scores[-1]:.2f}" if scores else ""
                    if name not in seconds:
                        shown[name](int(trained[-1]["step"]) if trained else 0, note)
                    if code is not None and name not in seconds:
                        if code != 0:
                            tail = _last_lines(out / f"{name}.log")
                            raise DemoError(f"training {name} ended with code {code}; {tail}")
                        seconds[name] = time.monotonic() - start
    finally:
        _stop(processes.values())
    return seconds


def _stop(processes) -> None:
    """Ask what still runs to checkpoint and end, and wait for it."""
    running = [p for p in processes if p.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()


def evaluate_both(out: Path, seconds: dict[str, float], *, steps: int, seed: int):
    """Numbers and per-image results of both runs on the held-out drops."""
    from crystal.assess import assess, finite
    from crystal.dataset import load_split
    from crystal.predict import Predictor
    from crystal.report import ImageResult, RunView
    from crystal.run_folder import load_run

    split = load_split(out / "data", "val")
    numbers, views = {}, {}
    for name in RUNS:
        model, clahe = load_run(out / name)
        with one_bar(f"evaluating {name}", len(split.records)) as bar:
            assessment = assess(Predictor(model, clahe=clahe), split, seed=seed, progress=bar)
        numbers[name] = {**finite(assessment.numbers), "steps": steps, "seconds": round(seconds[name], 1)}
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
        theirs = [f"{value:.3f}" for value in PAPER[key]] if key in PAPER else ["-", "-"]
        count = str(int(numbers["clahe"][f"images_of_{count}"]))
        table.add_row(count, iou, *ours, *theirs)
    console.print(table)
    console.print("The paper's figures are of MARCO photographs: beside, not against, ours.")


def demo(out: Path, *, steps: int | None, train: int, val: int, seed: int, light: float) -> None:
    """The whole experiment; what is finished already is not done again."""
    start = time.monotonic()
    steps = steps or STEPS
    out.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out).free < 1 << 30:
        raise DemoError(f"{out} lies on a disk with less than 1 GiB free; make room or choose another --out")
    render(out / "data", train=train, val=val, seed=seed, light=light)
    seconds = train_both(out, steps=steps, seed=seed)
    numbers, views = evaluate_both(out, seconds, steps=steps, seed=seed)
    write_atomically(out / "metrics.json", json.dumps(numbers, indent=1))
    print_table(numbers)

    from crystal.report import write_report

    with one_bar("report", 1) as bar:
        report = write_report(out, results=numbers, runs=views)
        bar(1)
    console.print(f"{report} shows pictures and curves; {(time.monotonic() - start) / 60:.1f} minutes in all")
