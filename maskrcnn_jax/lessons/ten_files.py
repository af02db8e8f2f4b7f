"""The training of lesson 16: ten drops with LabelMe files, rendered on the spot, and `crystal train` on them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from crystal.drops.dataset import render_dataset
from crystal.prediction.trained_model import load_run

TRAIN, VAL, STEPS, EVERY = 10, 6, 60, 20
HEIGHT, WIDTH = 256, 320
SETTINGS = ("batch_size=2", "log_every=1", f"validate_every={EVERY}", f"validate_images={VAL}")


class Run(NamedTuple):
    """What the training left: the lines of metrics.jsonl, and the weights as a state of the network."""

    metrics: list[dict[str, float]]
    weights: Any


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="lesson_16_")


@lru_cache(maxsize=1)
def dataset() -> Path:
    """The folder of the files, as `crystal render --scenes simple` writes it but with smaller images."""
    drops, numbers = Path(_folder().name) / "drops", {"train": TRAIN, "val": VAL, "seed": 3, "light": 0.3}
    render_dataset(drops, **numbers, scenes="simple", height=HEIGHT, width=WIDTH, workers=1)
    return drops


def command(drops: Path, run: Path) -> list[str]:
    """The words of the training's command line after `crystal`."""
    words = ["train", "--data", str(drops), "--out", str(run), "--init", "shapes", "--no-clahe", "--steps", str(STEPS)]
    return words + [word for setting in SETTINGS for word in ("--set", setting)]


def train(on_step: Callable[[str], Any]) -> Run:
    """A new run of the command, in a process of its own.

    Args:
        on_step: is called with a sentence for each step, STEPS times.

    Raises:
        RuntimeError: the command fails; with the end of what it printed.
    """
    run = Path(_folder().name) / "run"
    shutil.rmtree(run, ignore_errors=True)
    log, told = run.with_suffix(".log"), 0
    with log.open("w") as output:
        words = [sys.executable, "-m", "crystal", *command(dataset(), run)]
        training = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"COLUMNS": "120"})
        try:
            while training.poll() is None:
                steps = [line for line in _lines(run / "metrics.jsonl") if "loss" in line]
                for line in steps[told:]:
                    on_step(f"step {line['step']}, loss {line['loss']:.2f}")
                told = len(steps)
                time.sleep(0.3)
        finally:
            training.kill()
            training.wait()
    if training.returncode:
        raise RuntimeError(f"crystal train failed:\n{log.read_text()[-2000:]}")
    return Run(_lines(run / "metrics.jsonl"), nnx.split(load_run(run))[1])


_runs: list[Run] = []


def trained(on_step: Callable[[str], Any] = lambda text: None) -> Run:
    """Train once; later calls return the same run. See `train`."""
    if not _runs:
        _runs.append(train(on_step))
    return _runs[0]


def _lines(log: Path) -> list[dict[str, float]]:
    """The complete lines of a log that may still be written."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
