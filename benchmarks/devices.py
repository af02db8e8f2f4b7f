"""How many images a second on 1, 2, 4 and 8 devices? `python -m benchmarks.devices`.

A training step of ResNet101-FPN at 512 with the batch spread over devices of this machine, each of which has as many
images however many there are. Beside the images a second: their share of what as many devices would do that do not wait
for each other. On a CPU, whose virtual devices share its cores, all have one batch together, so that only the cost of
dividing it shows.

Writes benchmarks/results/<hardware>-devices.json, after each number of devices.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

from benchmarks import workload
from benchmarks.measuring import in_loop, in_turns, median, readable, results_file, save, show, warn_if_busy
from crystal.console import console
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training.mesh import data_mesh, replicate, shard_batch
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step


def step_seconds(count: int, batch: int, *, size: int, depth: int, dtype: str, repeats: int) -> list[float]:
    """Of a step of `batch` images spread over the first `count` devices of this process."""
    model = MaskRCNN(workload.config(size, depth=depth, dtype=dtype), rngs=nnx.Rngs(0))
    images, truth = workload.as_batch([workload.make_scene(i, size=size) for i in range(batch)])
    optimizer, mesh = make_optimizer(optax.constant_schedule(workload.LEARNING_RATE)), data_mesh(jax.devices()[:count])
    graph, state = create_state(model, optimizer, norms=False)
    step, state = make_step(graph, optimizer, mesh), replicate(state, mesh)
    windows = jnp.tile(jnp.array([0.0, 0.0, size, size]), (batch, 1))
    images, truth, windows = shard_batch((images, truth, windows), mesh)
    key = replicate(jax.random.key(0), mesh)

    def take() -> dict:
        nonlocal state
        state, metrics = step(state, images, truth, windows, key)
        return metrics

    return in_turns({f"{count} devices": in_loop(take)}, repeats=repeats)[f"{count} devices"]


def on_virtual_devices(count: int, batch: int, **settings: object) -> list[float]:
    """`step_seconds` in a process of its own: a CPU is told before JAX starts how many devices it is."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={count}"
    code = (
        "import json; from benchmarks.devices import step_seconds; "
        f"print(json.dumps(step_seconds({count}, {batch}, **{settings!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"the process with {count} devices failed: see above")
    return json.loads(done.stdout.splitlines()[-1])


def main(
    counts: tuple[int, ...] = (1, 2, 4, 8),
    batch: int = 16,
    size: int = 512,
    depth: int = 101,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    repeats: int = 5,
    out: Path | None = None,
) -> None:
    """Time, write.

    Args:
        counts: of devices; those beyond what the machine has are left out.
        batch: images of each device; on a CPU of all together.
        size: side of the square images.
        depth: of the ResNet.
        dtype: of convolutions and matrix products.
        repeats: samples of each.
        out: a file or folder for the results.
    """
    warn_if_busy()
    virtual = jax.default_backend() == "cpu"
    settings = {"size": size, "depth": depth, "dtype": dtype, "repeats": repeats}
    rows = []
    for count in counts:
        if not virtual and count > len(jax.devices()):
            console.print(f"{count} devices: left out, there are {len(jax.devices())}")
            continue
        console.print(f"{count} devices: compiling")
        images = batch if virtual else batch * count
        seconds = (on_virtual_devices if virtual else step_seconds)(count, images, **settings)
        rows.append({"devices": count, "images": images, "seconds": seconds, **settings})
        save(
            "how many images a second on several devices?",
            "devices",
            settings={"virtual_devices": virtual},
            out=out,
            rows=rows,
            key=("devices", "images", "size", "depth", "dtype"),
        )
    speeds = [row["images"] / median(row["seconds"]) for row in rows]
    ideal = [speeds[0] if virtual else speeds[0] * row["devices"] / rows[0]["devices"] for row in rows]
    show(
        f"a step of ResNet{depth}-FPN at {size}, {dtype}",
        ["devices", "images a step", "time", "images/s", "of the ideal"],
        [
            [str(r["devices"]), str(r["images"]), readable(median(r["seconds"])), f"{speed:.4g}", f"{speed / most:.0%}"]
            for r, speed, most in zip(rows, speeds, ideal, strict=True)
        ],
    )
    console.print(str(results_file("devices", out)))


if __name__ == "__main__":
    tyro.cli(main)
