"""Does training in bfloat16 lose anything? `python -m benchmarks.precision [--steps 200] [--seeds 3]`.

Trains the tiny preset on rendered drops in float32 and with `compute_dtype=bfloat16` (convolutions and matrix products;
parameters, sums, norms, boxes and losses stay float32), from the same weights on the same batches, for several seeds.
The noise to compare with is what float32 itself does from one seed to the next: the seed decides the order of the
images, their variations and which anchors and RoIs are drawn. The loss is the mean over the last 20 steps.

Writes benchmarks/results/<hardware>-precision.json with every step's loss of every run. Runs are ordinary ones of
`crystal train`; the same command goes on where it stopped. A CPU without bfloat16 units is slower in it: the speeds say
nothing about GPUs.
"""

import contextlib
from pathlib import Path

import numpy as np
import tyro

from benchmarks.measuring import save, warn_if_busy
from crystal.console import Bars, console
from crystal.demo import render
from crystal.evaluation.intervals import spread
from crystal.training.log import read_metrics
from crystal.training.options import Train
from crystal.training.parallel_runs import Training, train_in_parallel

TYPES = ("float32", "bfloat16")
LAST = 20


def training(work: Path, dtype: str, seed: int, *, steps: int, size: tuple[int, int], batch: int) -> Training:
    """One run of `crystal train`, every step logged."""
    options = Train(
        data=work / "drops" / "data",
        out=work / f"{dtype}-{seed}",
        init="shapes",
        steps=steps,
        seed=seed,
        set=(
            "image.zooms=(1, 1)",
            f"compute_dtype={dtype}",
            f"image.size={size}",
            f"batch_size={batch}",
            "log_every=1",
        ),
    )
    return Training(f"{dtype}, seed {seed}", options, steps)


def losses(run: Path) -> list[float]:
    """The total loss at every step."""
    return [line["loss"] for line in read_metrics(run) if "loss" in line]


def speed(run: Path) -> float:
    """Images a second, median over the steps: the first ones compile."""
    return float(np.median([line["images_per_second"] for line in read_metrics(run) if "images_per_second" in line]))


def main(
    work: Path = Path("runs/precision"),
    steps: int = 200,
    seeds: int = 3,
    size: tuple[int, int] = (128, 160),
    batch: int = 2,
    at_once: int = 2,
    out: Path | None = None,
) -> None:
    """Train, compare, write.

    Args:
        work: drops and runs.
        steps: of each run.
        seeds: runs of each type.
        size: height and width of the images; the preset's own is (256, 320).
        batch: images a step.
        at_once: runs side by side.
        out: a file or folder for the results.
    """
    warn_if_busy()
    (work / "drops").mkdir(parents=True, exist_ok=True)
    render(work / "drops" / "data", train=80, val=0, seed=5, light=0.5)
    runs = {
        (dtype, seed): training(work, dtype, seed, steps=steps, size=size, batch=batch)
        for seed in range(seeds)
        for dtype in TYPES
    }
    todo = [run for run in runs.values() if len(losses(run.out)) < steps]
    with (
        Bars() as bars,
        contextlib.closing(train_in_parallel(todo, bars=bars, compiled=work / "compiled", at_once=at_once)) as ended,
    ):
        for _ in ended:
            pass
    samples = {dtype: [losses(runs[dtype, seed].out) for seed in range(seeds)] for dtype in TYPES}
    last = {dtype: [float(np.mean(one[-LAST:])) for one in own] for dtype, own in samples.items()}
    difference = spread(np.subtract(last["bfloat16"], last["float32"]).tolist())
    noise = spread(last["float32"])
    within = abs(difference.mean) <= noise.deviation
    path = save(
        "is the loss of the tiny preset in bfloat16 within float32's noise?",
        "precision",
        settings={"steps": steps, "image_size": size, "batch_size": batch, "last_steps": LAST},
        out=out,
        last_loss=last,
        difference=difference._asdict(),
        deviation_of_float32_over_seeds=noise.deviation,
        within_noise=within,
        images_per_second={d: [speed(runs[d, s].out) for s in range(seeds)] for d in TYPES},
        losses=samples,
    )
    console.print(
        f"loss at the end: float32 {noise.mean:.3f} (seeds differ by {noise.deviation:.3f}), bfloat16 less float32 "
        f"{difference.mean:+.3f} ± {difference.deviation:.3f}: "
        f"{'within' if within else 'NOT within'} the noise; {path}"
    )


if __name__ == "__main__":
    tyro.cli(main)
