"""The small programs that the tests of `benchmarks/gpu` read, compiled for a GPU that is not there.

`python -m tests.benchmarks.gpu.store` writes them again; it needs the environment of `benchmarks.gpu_plan`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from benchmarks.gpu.programs import OPTIONS
from benchmarks.gpu.target import read_target

FOLDER = Path(__file__).parent


def convolution(features, kernel, bias):
    """A convolution with bias and ReLU, and the gradients of all three arguments."""

    def out(features, kernel, bias):
        maps = jax.lax.conv_general_dilated(
            features, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jax.nn.relu(maps + bias).astype(jnp.float32) ** 2)

    return jax.grad(out, (0, 1, 2))(features, kernel, bias)


def scatters(rows, index):
    """The same rows added up twice: in sorted order, and in any."""
    table = jnp.zeros((10, 32))
    return table.at[index].add(rows, indices_are_sorted=True), table.at[index * 7 % 10].add(rows)


def loops(values, matrix):
    """Five products, and a loop whose length depends on the values."""
    powers = jax.lax.fori_loop(0, 5, lambda _, product: product @ matrix, values)
    return jax.lax.while_loop(lambda v: jnp.max(v) > 1, lambda v: v / 2, powers)


def arrays(*shapes):
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]


PROGRAMS = {
    convolution: arrays(((2, 8, 8, 64), jnp.bfloat16), ((3, 3, 64, 32), jnp.bfloat16), ((32,), jnp.bfloat16)),
    scatters: arrays(((640, 32), jnp.float32), ((640,), jnp.int32)),
    loops: arrays(((64, 64), jnp.bfloat16), ((64, 64), jnp.bfloat16)),
}


def main() -> None:
    """Compile and write."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=read_target("h200").xla, topology="1x1x1")
    device = SingleDeviceSharding(topology.devices[0])
    for function, shapes in PROGRAMS.items():
        placed = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device) for a in shapes]
        compiled = (
            jax.jit(function).trace(*placed).lower(lowering_platforms=("cuda",)).compile(compiler_options=OPTIONS)
        )
        text = compiled.as_text().replace(str(FOLDER.parents[2]) + "/", "")
        (FOLDER / f"{function.__name__}.hlo").write_text(text)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
