"""How does the cost grow? `python -m benchmarks.scaling`.

Time of a training step against the image's side, the batch and the RoIs, and of non-maximum suppression against the
number of boxes. For each the slope in log-log coordinates: 1 is linear, 2 quadratic. Per-image work should be linear in
pixels (2 in the side), in the batch and in the RoIs; NMS compares all pairs and is quadratic by design. An amount that
is left empty (`--sides`) is not measured again.

ResNet50 at small sizes, since it is the slopes that count. Writes benchmarks/results/<hardware>-scaling.json, after
each series.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from benchmarks import workload
from benchmarks.measuring import (
    Repeated,
    in_loop,
    in_program,
    in_turns,
    median,
    readable,
    results_file,
    save,
    show,
    warn_if_busy,
)
from crystal.console import console
from maskrcnn_jax.boxes.nms import nms
from maskrcnn_jax.model import MaskRCNN

SIDE, BATCH = 256, 1


def slope(amounts: list[float], seconds: list[float]) -> float:
    """Of a straight line through the logarithms, least squares.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(amounts), np.log(seconds), 1)[0])


def training(side: int = SIDE, batch: int = BATCH, rois: int = 512) -> Repeated:
    """A step of ResNet50 with `rois` RoIs an image, a quarter of them for the mask head."""
    config = workload.config(side, depth=50)
    targets = dataclasses.replace(config.roi.targets, samples=rois, max_positive=rois // 4)
    config = dataclasses.replace(config, roi=dataclasses.replace(config.roi, targets=targets))
    model = MaskRCNN(config, rngs=nnx.Rngs(0))
    scenes = [workload.make_scene(i, size=side) for i in range(batch)]
    return in_loop(workload.Training(model, *workload.as_batch(scenes)))


def suppression(n: int) -> Repeated:
    """NMS of n boxes."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 450, (n, 2)), rng.uniform(8, 60, (n, 2))
    boxes = jnp.asarray(np.concatenate([corners, corners + sides], 1), jnp.float32)
    scores = jnp.asarray(rng.uniform(size=n), jnp.float32)
    return in_program(lambda b, s: nms(b, s, iou_threshold=0.7, max_outputs=n), boxes, scores)


SERIES: dict[str, Callable[[int], Callable[[], Any]]] = {
    "side of the image": lambda side: training(side=side),
    "images a batch": lambda batch: training(batch=batch),
    "RoIs an image": lambda rois: training(rois=rois),
    "boxes in NMS": suppression,
}


def main(
    repeats: int = 5,
    sides: tuple[int, ...] = (128, 192, 256, 384),
    batches: tuple[int, ...] = (1, 2, 4),
    rois: tuple[int, ...] = (128, 256, 512, 1024),
    boxes: tuple[int, ...] = (500, 1000, 2000, 4000),
    out: Path | None = None,
) -> None:
    """Time, fit, write.

    Args:
        repeats: samples of each point.
        sides: of the square images.
        batches: images a step.
        rois: RoIs an image.
        boxes: of which NMS keeps some.
        out: a file or folder for the results.
    """
    warn_if_busy()
    rows = []
    for (what, make), amounts in zip(SERIES.items(), (sides, batches, rois, boxes), strict=True):
        if not amounts:
            continue
        console.print(f"{what}: compiling")
        seconds = in_turns({str(amount): make(amount) for amount in amounts}, repeats=repeats)
        middle = [median(samples) for samples in seconds.values()]
        rows.append(
            {"against": what, "seconds": seconds, "slope": slope(list(amounts), middle) if len(middle) > 1 else None}
        )
        save(
            "how does the cost grow?",
            "scaling",
            settings={"repeats": repeats, "depth": 50, "image_size": SIDE, "batch_size": BATCH},
            out=out,
            rows=rows,
            key=("against",),
        )
    show(
        "growth of the cost",
        ["against", "points", "slope"],
        [
            [
                row["against"],
                ", ".join(f"{amount}: {readable(median(samples))}" for amount, samples in row["seconds"].items()),
                "" if row["slope"] is None else f"{row['slope']:.2f}",
            ]
            for row in rows
        ],
    )
    console.print(str(results_file("scaling", out)))


if __name__ == "__main__":
    tyro.cli(main)
