"""What a machine can do at most: by measurement of a matrix product and of a copy, and by its maker's datasheet."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measuring import Repeated, in_program

# FLOPs a second of dense products, by the makers' datasheets; XLA computes those of float32 as TF32.
DATASHEETS = {
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 494e12},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 494e12},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 156e12},
    "NVIDIA A100-SXM4-40GB": {"bfloat16": 312e12, "float32": 156e12},
    "NVIDIA L4": {"bfloat16": 121e12, "float32": 60e12},
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
    """FLOPs a second of the device by its datasheet; None where it is not listed."""
    return DATASHEETS.get(jax.devices()[0].device_kind, {}).get(dtype)


def peak_memory() -> int | None:
    """The most bytes of the first device that were ever in use in this process; None where the device does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
