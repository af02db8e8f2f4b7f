"""What a machine can do at most: by measurement of a matrix product and of a copy, and by its maker's datasheet."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.target import read_target
from benchmarks.measuring import Repeated, in_program

# Kinds of devices as JAX names them, and the files of benchmarks/gpu/targets that hold their datasheets.
TARGETS = {
    "NVIDIA H200": "h200",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA A100-SXM4-40GB": "a100",  # less memory, the same FLOPs
    "NVIDIA L4": "l4",
}


def matmul(n: int | None = None, dtype: Any = jnp.float32) -> tuple[Repeated, float]:
    """A call that multiplies two n x n matrices, and its FLOPs: the yardstick for a machine's peak. A GPU wants 8,192,
    which is the default there, and matrices that are not all zeros, with which it runs faster.
    """
    n = n or (4096 if jax.default_backend() == "cpu" else 8192)
    factor = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
    return in_program(lambda a, b: a @ b, factor, factor), 2.0 * n**3


def copying(megabytes: int | None = None) -> tuple[Repeated, float]:
    """A call that reads and writes an array too large for caches, and the bytes it moves: the yardstick for memory."""
    megabytes = megabytes or (256 if jax.default_backend() == "cpu" else 2048)
    values = jnp.zeros(megabytes << 18, jnp.float32)
    return in_program(lambda x: x + 1.0, values), 2.0 * values.nbytes


def datasheet_flops(dtype: str) -> float | None:
    """FLOPs a second of the device's matrix products by its datasheet, those of float32 as TF32, as XLA computes them;
    None where the device is not listed.
    """
    target = TARGETS.get(jax.devices()[0].device_kind)
    return read_target(target).flops[{"bfloat16": "bf16", "float32": "tf32"}[dtype]] if target else None


def peak_memory() -> int | None:
    """The most bytes of the first device that were ever in use in this process; None where the device does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
