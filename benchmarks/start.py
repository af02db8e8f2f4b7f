"""How long until the first step, and how much of it do compiled programs on disk save? `python -m benchmarks.start`.

Starts the same training of two steps twice, ResNet101 at 512 by default, with one folder for compiled programs that is
empty at first. Each start is a new process and a new run. The first step ends when `metrics.jsonl` shows it, and began
the second's duration before.

Writes benchmarks/results/<hardware>-start.json.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import tyro

from benchmarks.measuring import save, warn_if_busy
from crystal.console import console
from crystal.demo import render
from crystal.training.log import read_metrics


def main(
    work: Path = Path("runs/start"),
    init: str | None = None,
    size: tuple[int, int] = (512, 512),
    out: Path | None = None,
) -> None:
    """Start twice, write.

    Args:
        work: drops, runs and compiled programs.
        init: weights, as for `crystal train`; random ones unless told.
        size: height and width of the images.
        out: a file or folder for the results.
    """
    warn_if_busy()
    work.mkdir(parents=True, exist_ok=True)
    render(work / "data", train=4, val=0, seed=7, light=0.5)
    shutil.rmtree(work / "compiled", ignore_errors=True)
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str((work / "compiled").absolute())
    seconds = {}
    for name in ("first", "second"):
        run = work / name
        shutil.rmtree(run, ignore_errors=True)
        words = ["--data", str(work / "data"), "--out", str(run), "--preset", "paper", "--steps", "2"]
        words += ["--set", f"image.size={size}", "--set", "batch_size=1", "--set", "log_every=1"]
        words += [] if init is None else ["--init", init]
        begun = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "crystal", "train", *words], env=environment)
        console.print(f"the {name} start")
        while not read_metrics(run) and process.poll() is None:
            time.sleep(0.05)
        ended = time.monotonic() - begun
        if process.wait():
            sys.exit(f"the {name} start failed")
        step = 1 / read_metrics(run)[1]["images_per_second"]
        seconds[name] = {"first_step_began": ended - step, "first_step_ended": ended, "step": step}
    path = save(
        "how much of a start do compiled programs on disk save?",
        "start",
        settings={"preset": "paper", "image_size": size, "batch_size": 1, "init": init},
        out=out,
        seconds=seconds,
    )
    for what in ("first_step_began", "first_step_ended"):
        first, second = (seconds[name][what] for name in ("first", "second"))
        console.print(f"{what}: {first:.1f} s, then {second:.1f} s, {first / second:.1f} times sooner")
    console.print(str(path))


if __name__ == "__main__":
    tyro.cli(main)
