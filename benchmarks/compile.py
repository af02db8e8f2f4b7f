"""What does compiling the training step cost, and would `scan` help? `python -m benchmarks.compile`.

Tracing, compiling with nothing on disk, and loading from disk, for the whole step of ResNet101-FPN; and for the 22
equal blocks of its fourth stage alone, gradient included: one after the other, and with `scan_blocks`, where XLA
compiles one of them as a loop. For the blocks the time of a call is measured as well, since a loop keeps XLA from
fusing across blocks and stacks what the backward pass needs.

Writes benchmarks/results/<hardware>-compile.json.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from benchmarks import workload
from benchmarks.measuring import in_loop, in_turns, median, readable, save, show, warn_if_busy
from benchmarks.step import compile_seconds
from crystal.console import console
from maskrcnn_jax.backbone.resnet import Stage
from maskrcnn_jax.config import BackboneConfig
from maskrcnn_jax.layers import Compute
from maskrcnn_jax.model import MaskRCNN


def equal_blocks(depth: int, size: int) -> dict[str, Any]:
    """The loss of `depth` equal blocks at a sixteenth of the image's resolution: unrolled, and scanned over."""
    features = jax.random.normal(jax.random.key(0), (1, size // 16, size // 16, 1024)) * 0.01
    programs = {}
    for name, scan in (("unrolled", False), ("scan", True)):
        how = {"config": BackboneConfig(scan_blocks=scan), "compute": Compute(kernels="cpu"), "rngs": nnx.Rngs(0)}
        graph, weights = nnx.split(Stage(1024, 1024, depth=depth, stride=1, **how))

        def loss(weights: nnx.State, features: jax.Array, graph: nnx.GraphDef = graph) -> jax.Array:
            return jnp.mean(nnx.merge(graph, weights)(features) ** 2)

        programs[name] = (jax.jit(jax.value_and_grad(loss)), weights, features)
    return programs


def main(size: int = 512, depth: int = 22, repeats: int = 5, out: Path | None = None) -> None:
    """Compile, time, write.

    Args:
        size: side of the square images.
        depth: equal blocks.
        repeats: samples of a call of the blocks.
        out: a file or folder for the results.
    """
    warn_if_busy()
    console.print("the whole step: compiling")
    model = MaskRCNN(workload.config(size), rngs=nnx.Rngs(0))
    training = workload.Training(model, *workload.as_batch([workload.make_scene(0, size=size)]))
    results = {"whole step": compile_seconds(lambda: training.step.lower(training.state, *training.data))}
    calls = {}
    for name, (run, *arguments) in equal_blocks(depth, size).items():
        console.print(f"{depth} blocks, {name}: compiling")
        results[f"{depth} blocks, {name}"] = compile_seconds(lambda run=run, arguments=arguments: run.lower(*arguments))
        calls[f"{depth} blocks, {name}"] = in_loop(lambda run=run, arguments=arguments: run(*arguments))
    seconds = in_turns(calls, repeats=repeats)
    path = save(
        "what does compiling the training step cost, and would scan help?",
        "compile",
        settings={"image_size": size, "blocks": depth, "repeats": repeats},
        out=out,
        compile_seconds=results,
        call_seconds=seconds,
    )
    show(
        f"compiling, ResNet101-FPN at {size}",
        ["program", "trace", "compile", "from disk", "a call"],
        [
            [
                name,
                *(readable(found[part]) for part in ("trace", "compile_cold", "compile_from_disk")),
                readable(median(seconds[name])) if name in seconds else "",
            ]
            for name, found in results.items()
        ],
    )
    console.print(str(path))


if __name__ == "__main__":
    tyro.cli(main)
