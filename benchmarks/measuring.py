"""What every benchmark here does alike: time calls in turns, count FLOPs, write the results.

Absolute times on shared machines drift by a third within minutes. So calls that are compared take turns, sample by
sample, after all of them have been warmed up, and what is read off is the ratio of the medians. Right after another
call a heavy one may pay for it (a training step by half, where the kernel had to clear the pages that the other had
given back), so that in each turn every call is made twice, and the second one counts.

A GPU is told what to compute and goes on while the host does something else: a call that is short, or waited for, would
be timed with the host's part of it. So there a sample is many computations, inside one program or one after the other,
and one wait.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.extend.core import ClosedJaxpr, Jaxpr
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from crystal.console import console, warn
from crystal.files import write_atomically
from crystal.training.machine import describe_machine, file_name

RESULTS = Path(__file__).parent / "results"
SAMPLE = 0.1  # seconds of computing that a sample on a GPU has at least
QUIET = 10.0  # seconds between lines of progress
LOAD = psutil.getloadavg()[0]  # processes that were running before this one did anything
Calls = Mapping[str, Callable[[], Any]]


class Repeated(NamedTuple):
    """A call that does the same `times` times."""

    run: Callable[[], Any]
    times: int

    def __call__(self) -> Any:
        return self.run()


def in_program(function: Callable, *arguments: Any) -> Repeated:
    """A call whose one program computes the function, on a GPU as often as a sample wants, else once."""
    once = jax.jit(function)
    times = _enough(lambda: once(*arguments))
    program = once if times == 1 else jax.jit(again_and_again(function, times))
    return Repeated(lambda: program(*arguments), times)


def again_and_again(function: Callable, times: int) -> Callable:
    """A function that computes another `times` times and returns the last result."""

    def one_more(_: jax.Array, carried: tuple) -> tuple:
        # The barrier makes every round depend on the one before, or XLA would compute it once, before the loop.
        arguments, _ = jax.lax.optimization_barrier(carried)
        return arguments, function(*arguments)

    def many(*arguments: Any) -> Any:
        nothing = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(function, *arguments))
        return jax.lax.fori_loop(0, times, one_more, (arguments, nothing))[1]

    return many


def in_loop(call: Callable[[], Any], wait: Callable[[Any], Any] = jax.block_until_ready) -> Repeated:
    """A call that makes another `times` times, on a GPU as often as a sample wants, else once; and waits at the end."""
    times = _enough(lambda: wait(call()))

    def many() -> Any:
        for _ in range(times - 1):
            call()
        return wait(call())

    return Repeated(many, times)


def _enough(call: Callable[[], Any], most: int = 1000) -> int:
    """Calls that fill a sample."""
    if jax.default_backend() == "cpu":
        return 1  # it computes while it is waited for, and takes microseconds to be told so
    jax.block_until_ready(call())
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return min(math.ceil(SAMPLE / (time.perf_counter() - begun)), most)


def in_turns(calls: Calls, *, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, or of one time where it is `Repeated`: `repeats` samples each, one a turn, each the second
    of two calls, waited for. Long ones print how far they are.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    told = time.monotonic()
    for turn in range(-warmup, repeats):
        for name, call in calls.items():
            jax.block_until_ready(call())
            begun = time.perf_counter()
            jax.block_until_ready(call())
            taken = time.perf_counter() - begun
            if turn >= 0:
                seconds[name].append(taken / (call.times if isinstance(call, Repeated) else 1))
            if time.monotonic() - told > QUIET:
                told = time.monotonic()
                console.print(f"turn {turn + warmup + 1} of {warmup + repeats}: {name}, {readable(taken)}")
    return seconds


def median(seconds: list[float]) -> float:
    """The middle sample."""
    return statistics.median(seconds)


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


def warn_if_busy() -> None:
    """Say so where other programs were running when this one started."""
    cores = describe_machine()["cores"]
    if cores / 4 < LOAD:
        warn(f"other programs keep {LOAD:.1f} of {cores} cores busy: the times mean little")


def results_file(what: str, out: Path | None = None) -> Path:
    """<hardware>-<what>.json in `out`, by default in benchmarks/results; or `out` itself where it ends in .json."""
    return out if out and out.suffix == ".json" else (out or RESULTS) / file_name(describe_machine(), what)


def save(
    question: str,
    what: str,
    *,
    settings: Mapping[str, Any],
    out: Path | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    key: Sequence[str] = (),
    **found: Any,
) -> Path:
    """Write the question, the machine, the settings and what was found.

    Args:
        question: that the benchmark answers.
        what: the end of the file's name.
        settings: of this run.
        out: a file, or a folder for `results_file`.
        rows: what was measured, by case. Those that an earlier run measured and this one did not are kept, with the
            machine and the settings of theirs.
        key: fields of a row that name its case.
        **found: anything else; it replaces what an earlier run found.
    """
    path, rows = results_file(what, out), list(rows)
    machine = describe_machine() | {"load_before": LOAD}
    if rows and path.exists():
        before = json.loads(path.read_text())
        cases = [[row.get(name) for name in key] for row in rows]
        theirs = {"machine": before["machine"], "settings": before["settings"]}
        kept = [row for row in before.get("rows", []) if [row.get(name) for name in key] not in cases]
        rows = [theirs | row for row in kept] + rows
    results = {"question": question, "machine": machine, "settings": dict(settings), **found}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(results | ({"rows": rows} if rows else {})) + "\n")
    return path


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table, as wide as it is: a file has no width, and rich would cut it to 80 columns."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    wide = Console(width=10_000)
    width = max(console.width, Measurement.get(wide, wide.options, table).maximum)
    Console(width=width, highlight=False, markup=False).print(table)


def readable(seconds: float) -> str:
    """Seconds as a table shows them.

    >>> readable(0.00123), readable(2.5), readable(1e-5)
    ('1.23 ms', '2.50 s', '10 µs')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
