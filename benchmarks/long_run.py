"""Does a long run keep its memory and its pace? `python -m benchmarks.long_run [--steps 2000]`.

One run of `crystal train --preset tiny` at a small image size. What is read off its log: how much the resident memory
grows after a quarter of the steps, and what checkpoints cost: the pace in the intervals that hold one against that of
the others, weighed by how many there are.

Writes benchmarks/results/<hardware>-long-run-<size>.json with every line of the log.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tyro

from crystal.console import console
from crystal.demo import render
from crystal.files import write_atomically
from crystal.training.config import TrainConfig
from crystal.training.machine import describe_machine, file_name
from crystal.training.run_folder import read_metrics

RESULTS = Path(__file__).parent / "results"


def main(
    work: Path = Path("runs/long_run"), steps: int = 2000, size: tuple[int, int] = (64, 64), batch: int = 2
) -> None:
    """Train, read the log, write.

    Args:
        work: drops and the run.
        steps: of the run.
        size: height and width of the images; the preset's own is (256, 320).
        batch: images a step; the preset's own is 8.
    """
    work.mkdir(parents=True, exist_ok=True)
    render(work / "data", train=40, val=0, seed=6, light=0.5)
    out, every = work / "run", TrainConfig.tiny().checkpoint_every
    words = ["--data", str(work / "data"), "--out", str(out), "--init", "shapes", "--steps", str(steps)]
    words += ["--set", f"image.size={size}", "--set", f"batch_size={batch}"]
    subprocess.run([sys.executable, "-m", "crystal", "train", *words], check=True)

    lines = [line for line in read_metrics(out) if "loss" in line]
    settled = [line["memory_mb"] for line in lines if line["step"] >= steps // 4]
    # The first line of a run waits for the compiler; the interval after a checkpoint is the one that it is written in.
    seconds = {line["step"]: batch / line["images_per_second"] for line in lines[1:]}
    log_every = lines[1]["step"] - lines[0]["step"]
    beside = [s for step, s in seconds.items() if (step - log_every) % every == 0]
    others = [s for step, s in seconds.items() if (step - log_every) % every]
    cost = (np.mean(beside) / np.mean(others) - 1) * log_every / every
    growth = max(settled) / settled[0] - 1
    machine = describe_machine()
    results = {
        "question": "does a long run keep its memory and its pace?",
        "machine": machine,
        "settings": {"steps": steps, "image_size": size, "batch_size": batch, "checkpoint_every": every},
        "memory_growth_after_a_quarter": growth,
        "checkpoints_share_of_time": cost,
        "log": lines,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / file_name(machine, f"long-run-{size[0]}x{size[1]}")
    write_atomically(path, json.dumps(results) + "\n")
    console.print(
        f"{steps} steps: memory after step {steps // 4} grew by {growth:.1%} of {settled[0]:.0f} MB; checkpoints every "
        f"{every} steps cost {cost:.1%} of the time; {path}"
    )


if __name__ == "__main__":
    tyro.cli(main)
