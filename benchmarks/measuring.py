"""What every benchmark here does alike: time calls in turns, know the machine's peak, count FLOPs, write the results.

Absolute times on shared machines drift by a third within minutes. So calls that are compared take turns, sample by
sample, after all of them have been warmed up, and what is read off is the ratio of the medians. Right after another
call a heavy one may pay for it (a training step by half, where the kernel had to clear the pages that the other had
given back), so that in each turn every call is made twice, and the second one counts.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from crystal.console import console
from crystal.files import write_atomically
from crystal.training.machine import describe_machine, file_name

RESULTS = Path(__file__).parent / "results"
Calls = Mapping[str, Callable[[], Any]]


def in_turns(calls: Calls, *, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, `repeats` samples each, one a turn, each the second of two calls, waited for."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warmup, repeats):
        for name, call in calls.items():
            jax.block_until_ready(call())
            begun = time.perf_counter()
            jax.block_until_ready(call())
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def median(seconds: list[float]) -> float:
    """The middle sample."""
    return statistics.median(seconds)


def matmul(n: int = 4096, dtype: Any = jnp.float32) -> tuple[Callable[[], jax.Array], float]:
    """A call that multiplies two n x n matrices, and its FLOPs: the yardstick for a machine's peak."""
    factor = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
    product = jax.jit(lambda a, b: a @ b)
    return lambda: product(factor, factor), 2.0 * n**3


def copying(megabytes: int = 256) -> tuple[Callable[[], jax.Array], float]:
    """A call that reads and writes an array too large for caches, and the bytes it moves: the yardstick for memory."""
    values = jnp.zeros(megabytes << 18, jnp.float32)
    add = jax.jit(lambda x: x + 1.0)
    return lambda: add(values), 2.0 * values.nbytes


def model_flops(function: Callable, *arguments: Any) -> float:
    """FLOPs of the convolutions and matrix products in one call, by its jaxpr: two for each multiply-add.

    What a step of training is commonly credited with is three times its forward pass.

    >>> model_flops(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 5)))
    60.0
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2.0 * np.prod(out.shape) * np.prod([equation.invars[0].aval.shape[i] for i in contracted])
        elif equation.primitive.name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
            total += 2.0 * np.prod(out.shape) * np.prod(kernel) / kernel[numbers.rhs_spec[0]]
        branches = [_flops(inner) for inner in _inner(equation.params)]
        # Of alternatives one is taken; of anything else all parts are.
        total += (
            (max(branches) if equation.primitive.name in ("cond", "platform_index") else sum(branches))
            * (equation.params["length"] if equation.primitive.name == "scan" else 1)
            if branches
            else 0.0
        )
    return float(total)


def _inner(params: Mapping[str, Any]) -> list[Jaxpr]:
    found = []
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, Jaxpr):
                found.append(one)
    return found


def device_memory(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a compiled program needs: arguments, results and temporaries, less what it writes in place."""
    used = compiled.memory_analysis()
    if used is None:
        return None
    return used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes - used.alias_size_in_bytes


def save(question: str, what: str, *, settings: Mapping[str, Any], out: Path | None = None, **found: Any) -> Path:
    """Write `out`, by default benchmarks/results/<hardware>-<what>.json: the question, the machine, the settings and
    what was found.
    """
    machine = describe_machine()
    path = out or RESULTS / file_name(machine, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        path, json.dumps({"question": question, "machine": machine, "settings": dict(settings), **found}) + "\n"
    )
    return path


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table, as wide as it is: a log file has no width, and rich would cut it to 80 columns."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    wide = Console(width=10_000, highlight=False, markup=False)
    width = max(console.width, Measurement.get(wide, wide.options, table).maximum)
    Console(width=width, highlight=False, markup=False).print(table)


def readable(seconds: float) -> str:
    """Seconds as a table shows them.

    >>> readable(0.00123), readable(2.5)
    ('1.23 ms', '2.50 s')
    """
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
