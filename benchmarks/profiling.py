"""Which operations take the time of a program? `python -m benchmarks.profiling DIR [--top 30]`.

Prints, for a folder that `--profile DIR` of another benchmark wrote, how busy the device was, and its operations, most
expensive first. docs/how_to/profile.md says how to read it, and what else can show the folder.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from jax.profiler import ProfileData

from benchmarks.measuring import readable, show
from crystal.console import console
from crystal.files import write_atomically

STEPS = 3
PROGRAM = "program.txt"  # what XLA made of it, where the names of operations can be looked up


def record(call: Callable[[], Any], folder: Path, compiled: jax.stages.Compiled) -> None:
    """Profile a few calls that have been made before, and write the program beside what was recorded."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every Python call: large files, and a slower host
    with jax.profiler.trace(str(folder), profiler_options=options):
        for number in range(STEPS):
            with jax.profiler.StepTraceAnnotation("call", step_num=number):
                jax.block_until_ready(call())
    write_atomically(folder / PROGRAM, compiled.as_text() or "")
    console.print(f"profile of {STEPS} calls: {folder}; python -m benchmarks.profiling {folder}")


def operations(folder: Path) -> list[tuple[str, Any]]:
    """(operation of the program, what ran for it) of the newest profile in the folder, the first device's.

    Raises:
        FileNotFoundError: there is no profile.
        ValueError: it holds no operations.
    """
    paths = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no profile (*.xplane.pb); give a folder that --profile wrote")
    planes = list(ProfileData.from_file(str(paths[-1])).planes)
    # A CPU computes in threads of the host; a GPU has a plane of its own, with a line for each of its queues.
    plane = next((p for p in planes if p.name.startswith("/device:")), None)
    lines = [line for line in plane.lines if line.name.startswith("Stream")] if plane else []
    lines = lines or [line for p in planes if p.name == "/host:CPU" for line in p.lines]
    events = [event for line in lines for event in line.events]
    found = [(str(stats["hlo_op"]), e) for e in events if "hlo_op" in (stats := dict(e.stats))]
    if not found:
        raise ValueError(f"{paths[-1]}: no operation of a device is in it; was the program on another device?")
    return found


def busy(spans: list[tuple[float, float]]) -> float:
    """The share of the time from the first start to the last end that at least one span covers.

    >>> busy([(0, 2), (1, 3), (6, 8)])
    0.625
    """
    covered, until = 0.0, -float("inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered / (until - min(spans)[0])


def origins(program: str) -> dict[str, str]:
    """Where each operation of a compiled program comes from: the path of function names that JAX noted.

    >>> origins('  ROOT %add.3 = f32[2] add(%a, %b), metadata={op_name="jit(step)/loss/add" stack_frame_id=1}')
    {'add.3': 'jit(step)/loss/add'}
    """
    return dict(re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]*)"', program, re.MULTILINE))


def main(folder: Annotated[Path, tyro.conf.Positional], top: int = 30) -> None:
    """Read, print.

    Args:
        folder: that a benchmark's `--profile` wrote.
        top: operations that are printed.
    """
    found = operations(folder)
    program = folder / PROGRAM
    origin = origins(program.read_text()) if program.exists() else {}
    nanoseconds, runs, kernels = defaultdict(float), defaultdict(int), {}
    for name, event in found:
        nanoseconds[name] += event.duration_ns
        runs[name] += 1
        kernels[name] = event.name
    whole = sum(nanoseconds.values())
    show(
        f"operations of {STEPS} calls, {readable(whole / STEPS * 1e-9)} a call; the device was busy "
        f"{busy([(e.start_ns, e.start_ns + e.duration_ns) for _, e in found]):.0%} of the time",
        ["operation", "a call", "share", "runs a call", "kernel", "from"],
        [
            [
                name,
                readable(taken / STEPS * 1e-9),
                f"{taken / whole:.1%}",
                f"{runs[name] / STEPS:g}",
                kernels[name][:40],
                origin.get(name, "")[-60:],
            ]
            for name, taken in sorted(nanoseconds.items(), key=lambda item: -item[1])[:top]
        ],
    )


if __name__ == "__main__":
    tyro.cli(main)
