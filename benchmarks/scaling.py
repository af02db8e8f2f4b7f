"""How does the cost grow? `python -m benchmarks.scaling`.

Time of a training step against the image's side, the batch, the RoIs and the number of devices (virtual ones on a CPU,
which share its cores: there only the overhead shows), and of non-maximum suppression against the number of boxes. For
each the slope in log-log coordinates: 1 is linear, 2 quadratic. Per-image work should be linear in pixels (2 in the
side), in the batch and in the RoIs; NMS compares all pairs and is quadratic by design.

ResNet50 at small sizes, since it is the slopes that count. Writes benchmarks/results/<hardware>-scaling.json.
"""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from benchmarks import workload
from benchmarks.measuring import in_turns, median, readable, save, show
from crystal.console import console
from maskrcnn_jax.boxes.nms import nms
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training.mesh import data_mesh, replicate, shard_batch
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step

SIDE, BATCH = 256, 1


def slope(amounts: list[float], seconds: list[float]) -> float:
    """Of a straight line through the logarithms, least squares.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(amounts), np.log(seconds), 1)[0])


def training(side: int = SIDE, batch: int = BATCH, rois: int = 512) -> workload.Training:
    """A step of ResNet50 with `rois` RoIs an image, a quarter of them for the mask head."""
    config = workload.config(side, depth=50)
    targets = dataclasses.replace(config.roi.targets, samples=rois, max_positive=rois // 4)
    config = dataclasses.replace(config, roi=dataclasses.replace(config.roi, targets=targets))
    model = MaskRCNN(config, rngs=nnx.Rngs(0))
    return workload.Training(model, *workload.as_batch([workload.make_scene(i, size=side) for i in range(batch)]))


def suppression(n: int):
    """NMS of n boxes."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 450, (n, 2)), rng.uniform(8, 60, (n, 2))
    boxes = jnp.asarray(np.concatenate([corners, corners + sides], 1), jnp.float32)
    scores = jnp.asarray(rng.uniform(size=n), jnp.float32)
    run = jax.jit(lambda b, s: nms(b, s, iou_threshold=0.7, max_outputs=n))
    return lambda: run(boxes, scores)


def on_devices(count: int, repeats: int) -> list[float]:
    """Seconds of a step of 4 images spread over `count` devices of this process."""
    model = MaskRCNN(workload.config(SIDE, depth=50), rngs=nnx.Rngs(0))
    images, truth = workload.as_batch([workload.make_scene(i, size=SIDE) for i in range(4)])
    optimizer, mesh = make_optimizer(optax.constant_schedule(workload.LEARNING_RATE)), data_mesh(jax.devices()[:count])
    graph, state = create_state(model, optimizer, norms=False)
    step, state = make_step(graph, optimizer, mesh), replicate(state, mesh)
    batch = shard_batch((images, truth, jnp.tile(jnp.array([0.0, 0.0, SIDE, SIDE]), (4, 1))), mesh)
    key = replicate(jax.random.key(0), mesh)

    def take() -> dict:
        nonlocal state
        state, metrics = step(state, *batch, key)
        return metrics

    return in_turns({"step": take}, repeats=repeats)["step"]


def in_a_process_with(count: int, repeats: int) -> list[float]:
    """`on_devices` where so many exist: a CPU is told before JAX starts that it is several."""
    if jax.default_backend() != "cpu":
        return on_devices(count, repeats)
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={count}"
    code = f"import json; from benchmarks.scaling import on_devices; print(json.dumps(on_devices({count}, {repeats})))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(repeats: int = 5, sides: tuple[int, ...] = (128, 192, 256, 384), batches: tuple[int, ...] = (1, 2, 4)) -> None:
    """Time, fit, write.

    Args:
        repeats: samples of each point.
        sides: of the square images.
        batches: images a step.
    """
    rois, boxes = (128, 256, 512, 1024), (500, 1000, 2000, 4000)
    devices = (1, 2, 4) if jax.default_backend() == "cpu" else tuple(range(1, len(jax.devices()) + 1))
    series = {
        "side of the image": {side: training(side=side) for side in sides},
        "images a batch": {batch: training(batch=batch) for batch in batches},
        "RoIs an image": {count: training(rois=count) for count in rois},
        "boxes in NMS": {count: suppression(count) for count in boxes},
    }
    found = {
        what: in_turns({str(amount): call for amount, call in calls.items()}, repeats=repeats)
        for what, calls in series.items()
    }
    found["devices for 4 images"] = {str(count): in_a_process_with(count, repeats) for count in devices}
    middle = {what: {float(k): median(v) for k, v in samples.items()} for what, samples in found.items()}
    slopes = {what: slope(list(m), list(m.values())) for what, m in middle.items() if len(m) > 1}
    path = save(
        "how does the cost grow?",
        "scaling",
        settings={"repeats": repeats, "depth": 50, "image_size": SIDE, "batch_size": BATCH},
        seconds=found,
        slopes=slopes,
    )
    show(
        "growth of the cost",
        ["against", "points", "slope"],
        [
            [
                what,
                ", ".join(f"{k:g}: {readable(v)}" for k, v in m.items()),
                f"{slopes[what]:.2f}" if what in slopes else "",
            ]
            for what, m in middle.items()
        ],
    )
    console.print(str(path))


if __name__ == "__main__":
    tyro.cli(main)
