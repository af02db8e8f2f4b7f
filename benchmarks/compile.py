"""What does compiling the training step cost, and would `scan` help? `python -m benchmarks.compile`.

Tracing, compiling with nothing on disk, and loading from disk, for the whole step of ResNet101-FPN; and for the 22
equal blocks of its fourth stage alone, gradient included: written one after the other, as the network has them, against
one block under `jax.lax.scan`, which XLA compiles once. For the blocks the time of a call is measured as well, since
a loop keeps XLA from fusing across blocks and stacks what the backward pass needs.

Writes benchmarks/results/<hardware>-compile.json.
"""

from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from benchmarks import workload
from benchmarks.measuring import in_turns, median, readable, save, show
from benchmarks.step import compile_seconds
from crystal.console import console
from maskrcnn_jax.backbone.resnet import Block
from maskrcnn_jax.config import BackboneConfig
from maskrcnn_jax.model import MaskRCNN


def equal_blocks(depth: int, size: int) -> dict[str, Any]:
    """The loss of `depth` equal blocks at a sixteenth of the image's resolution: unrolled, and scanned over."""
    config = BackboneConfig()
    blocks = [
        nnx.split(Block(1024, 1024, stride=1, config=config, dtype="float32", rngs=nnx.Rngs(i))) for i in range(depth)
    ]
    graph = blocks[0][0]
    states = [nnx.to_pure_dict(state) for _, state in blocks]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    features = jax.random.normal(jax.random.key(0), (1, size // 16, size // 16, 1024)) * 0.01

    def unrolled(states: list, features: jax.Array) -> jax.Array:
        for state in states:
            features = nnx.merge(graph, state)(features)
        return jnp.mean(features**2)

    def scanned(stacked: Any, features: jax.Array) -> jax.Array:
        final, _ = jax.lax.scan(lambda x, state: (nnx.merge(graph, state)(x), None), features, stacked)
        return jnp.mean(final**2)

    return {
        "unrolled": (jax.jit(jax.value_and_grad(unrolled)), states, features),
        "scan": (jax.jit(jax.value_and_grad(scanned)), stacked, features),
    }


def main(size: int = 512, depth: int = 22, repeats: int = 5) -> None:
    """Compile, time, write.

    Args:
        size: side of the square images.
        depth: equal blocks.
        repeats: samples of a call of the blocks.
    """
    model = MaskRCNN(workload.config(size), rngs=nnx.Rngs(0))
    training = workload.Training(model, *workload.as_batch([workload.make_scene(0, size=size)]))
    results = {"whole step": compile_seconds(lambda: training.step.lower(training.state, *training.data))}
    calls = {}
    for name, (run, *arguments) in equal_blocks(depth, size).items():
        results[f"{depth} blocks, {name}"] = compile_seconds(lambda run=run, arguments=arguments: run.lower(*arguments))
        calls[f"{depth} blocks, {name}"] = lambda run=run, arguments=arguments: run(*arguments)
    seconds = in_turns(calls, repeats=repeats)
    path = save(
        "what does compiling the training step cost, and would scan help?",
        "compile",
        settings={"image_size": size, "blocks": depth, "repeats": repeats},
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
