"""The command line: `crystal demo | render | convert | check | train | table1 | evaluate | predict | inspect`, or
`python -m crystal` for `crystal`.

A command's options are a dataclass of its room (`options.py`), which goes whole to the function that does the work.
Every foreseen failure ends in one sentence that names the file and the remedy, and an exit code that is not 0:
1 failed, 2 wrong usage, 130 interrupted, 143 terminated. Heavy imports wait until a command needs them, so that --help
is quick.
"""

import contextlib
import dataclasses
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import tyro

from crystal.data.options import Check, Convert
from crystal.demo import Demo, demo
from crystal.drops.options import Render
from crystal.errors import CrystalError
from crystal.evaluation.options import Evaluate
from crystal.inspection.options import Inspect
from crystal.prediction.options import Predict
from crystal.training.options import Table1, Train

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143
COMMANDS = {
    "demo": Demo,
    "render": Render,
    "convert": Convert,
    "check": Check,
    "train": Train,
    "table1": Table1,
    "evaluate": Evaluate,
    "predict": Predict,
    "inspect": Inspect,
}


Options = Demo | Render | Convert | Check | Train | Table1 | Evaluate | Predict | Inspect


def run(options: Options) -> int:
    """Do what a command's options ask for; returns the exit code."""
    match options:
        case Demo():
            return demo(options)
        case Render():
            from crystal.drops.dataset import render_command

            return render_command(options)
        case Convert():
            from crystal.data.convert import convert_command

            return convert_command(options)
        case Check():
            from crystal.pages.check import check_command

            return check_command(options)
        case Train():
            from crystal.training.train import train_command

            return train_command(options)
        case Table1():
            from crystal.pages.table1 import table1_command

            return table1_command(options)
        case Evaluate():
            from crystal.evaluation.assessment import evaluate_command

            return evaluate_command(options)
        case Predict():
            from crystal.pages.plate import predict_command

            return predict_command(options)
        case Inspect():
            from crystal.pages.inspect import inspect_command

            return inspect_command(options)


def _expanded(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    if isinstance(value, Path) and value.parts[:1] and value.parts[0].startswith("~"):
        try:
            return value.expanduser()
        except RuntimeError as error:
            raise CrystalError(
                f"{value}: there is no home folder that ~ could stand for; write the path whole"
            ) from error
    return value


def with_home(options: Options) -> Options:
    """The options with ~ expanded in every path: a shell leaves it where it does not begin a word, as in --out=~/x."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    if isinstance(values.get("init"), str) and values["init"].startswith("~"):
        values["init"] = str(_expanded(Path(values["init"])))
    return dataclasses.replace(options, **{name: _expanded(value) for name, value in values.items()})


def explanation(error: Exception) -> str | None:
    """One sentence about a failure that was foreseen; None for any other, whose stack trace is wanted."""
    if isinstance(error, CrystalError):
        return str(error)
    if isinstance(error, ImportError) and "lib" in str(error) and ".so" in str(error):
        return f"{error}: install the system libraries OpenCV needs: apt-get install libgl1 libglib2.0-0"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, RuntimeError | AssertionError) and frames and frames[-1].filename.endswith("xla_bridge.py"):
        asked = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX finds no device for JAX_PLATFORMS={asked}: set JAX_PLATFORMS=cpu, or leave it unset"
    if isinstance(error, MemoryError):
        return f"out of memory ({error or 'MemoryError'}): take a smaller batch, smaller images or fewer workers"
    if isinstance(error, OSError) and error.filename:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{error.filename}: {error.strerror}{'; make room or choose another folder' if full else ''}"
    checkpoint = sys.modules.get("maskrcnn_jax.checkpoint")  # not loaded: it raised nothing
    return str(error) if checkpoint and isinstance(error, checkpoint.CheckpointError) else None


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM, by which schedulers and containers end a process, as Ctrl-C: what is half-written is removed."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Entry point of the console script."""
    if isinstance(sys.stdout, TextIOWrapper):  # no name, in whatever letters, may end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    options = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="crystal", description="Find and outline protein crystals in crystallization-drop images."
    )
    try:
        with _termination_interrupts():
            code = run(with_home(options))
    except KeyboardInterrupt as error:
        # A scheduler's SIGTERM has an exit code of its own.
        print("\ninterrupted; the same command goes on or starts again", file=sys.stderr)
        code = TERMINATED if str(error) == "SIGTERM" else INTERRUPTED
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        code = FAILED
    sys.exit(code)
