"""Does the input keep up with the step, and where is CLAHE cheaper? `python -m benchmarks.input`.

Images a second out of the loader alone, in the first pass over rendered drops (read, equalised, letterboxed) and in the
later ones (kept in memory, varied), against what a training step eats; then a short run of `crystal train`, whose log
says which share of its time it waited for input. CLAHE on the host (OpenCV, in the loader's threads) against ours on
the device, at the image's own size, where it has to be done.

Writes benchmarks/results/<hardware>-input.json.
"""

import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from benchmarks.measuring import in_loop, in_program, in_turns, median, readable, save, show, warn_if_busy
from crystal.console import console
from crystal.data.dataset import load_split
from crystal.data.images import apply_clahe, read_image
from crystal.data.loader import training_loader
from crystal.data.preparation import Batch
from crystal.demo import render
from crystal.training.config import PRESETS
from crystal.training.following import follow
from crystal.training.log import read_metrics
from crystal.training.trainer import to_devices
from maskrcnn_jax.image.clahe import clahe_rgb
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training.mesh import data_mesh
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step


def loader_speed(data: Path, preset: str, passes: int) -> tuple[dict[str, float], Batch]:
    """Images a second in the first pass and in later ones, and one batch."""
    split = load_split(data, "train")
    config = follow(PRESETS[preset](), split.records, ())
    batches = training_loader(
        split,
        size=config.model.image.size,
        zooms=config.model.image.zooms or (1.0, 1.0),
        batch_size=config.batch_size,
        slots=config.slots,
        seed=0,
        clahe=True,
        augment=config.augment,
    )
    a_pass = len(split.records) // config.batch_size
    speeds = []
    for _ in range(passes):
        begun = time.perf_counter()
        for _ in range(a_pass):
            batch = next(batches)
        speeds.append(a_pass * config.batch_size / (time.perf_counter() - begun))
    batches.close()
    return {"first_pass": speeds[0], "later_passes": float(np.median(speeds[1:]))}, batch


def step_speed(preset: str, batch: Batch, repeats: int) -> float:
    """Images a second of the step alone, on one batch."""
    config = PRESETS[preset]()
    images, truth, windows = to_devices(batch, data_mesh(jax.devices()[:1]))
    optimizer = make_optimizer(optax.constant_schedule(1e-7), kind=config.optimizer)
    graph, state = create_state(MaskRCNN(config.model, rngs=nnx.Rngs(0)), optimizer, norms=config.train_norms)
    step, key = make_step(graph, optimizer), jax.random.key(0)

    def take() -> dict:
        nonlocal state
        state, metrics = step(state, images, truth, windows, key)
        return metrics

    return config.batch_size / median(in_turns({"step": in_loop(take)}, repeats=repeats)["step"])


def waiting(data: Path, out: Path, steps: int) -> list[float]:
    """The share of its time that `crystal train --preset tiny` waits for input, by its log, after the first lines."""
    words = ["--data", str(data), "--out", str(out), "--preset", "tiny", "--steps", str(steps)]
    subprocess.run([sys.executable, "-m", "crystal", "train", *words, "--set", "validate_every=0"], check=True)
    lines = [line for line in read_metrics(out) if "loss" in line]
    return [line["input_wait_share"] for line in lines[2:]]


def main(
    work: Path = Path("runs/input"), images: int = 40, steps: int = 60, repeats: int = 5, out: Path | None = None
) -> None:
    """Render, time, train, write.

    Args:
        work: drops and the run.
        images: rendered drops.
        steps: of the run whose waiting is read off.
        repeats: samples of a step and of CLAHE; passes over the images.
        out: a file or folder for the results.
    """
    warn_if_busy()
    work.mkdir(parents=True, exist_ok=True)
    render(work / "data", train=images, val=0, seed=8, light=0.5)
    found = {}
    for preset in PRESETS:
        console.print(f"{preset}: loading and training")
        speeds, batch = loader_speed(work / "data", preset, repeats)
        found[preset] = speeds | {"step": step_speed(preset, batch, repeats)}
    waits = waiting(work / "data", work / "run", steps)

    one = read_image(load_split(work / "data", "train").records[0].path)
    on_device = in_program(clahe_rgb, jnp.asarray(one))
    equalised = in_turns({"host": lambda: apply_clahe(one), "device": on_device}, repeats=3 * repeats)
    same = bool((np.asarray(on_device()) == apply_clahe(one)).all())
    path = save(
        "does the input keep up with the step, and where is CLAHE cheaper?",
        "input",
        settings={"images": images, "steps": steps, "repeats": repeats, "image_shape": one.shape},
        out=out,
        images_per_second=found,
        waiting_share=waits,
        clahe_seconds=equalised,
        clahe_equal=same,
    )
    show(
        "images a second",
        ["preset", "loader, first pass", "loader, later", "training step"],
        [[preset, *(f"{v:.1f}" for v in speeds.values())] for preset, speeds in found.items()],
    )
    height, width, _ = one.shape
    console.print(
        f"`crystal train --preset tiny` waited for input {np.mean(waits):.2%} of its time; CLAHE of {width}x{height}: "
        f"{readable(median(equalised['host']))} on the host, {readable(median(equalised['device']))} on the device, "
        f"{'equal' if same else 'NOT equal'}; {path}"
    )


if __name__ == "__main__":
    tyro.cli(main)
