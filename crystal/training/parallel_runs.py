"""Several trainings at the same time, each a `crystal train` of its own: one alone uses little more than one core.

If one of them fails, or this process is asked to stop, the others write a checkpoint and end; the same command goes on
with all of them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crystal.console import Bar, Bars
from crystal.errors import CrystalError
from crystal.training.log import read_metrics
from crystal.training.options import Train, command_line

GRACE_SECONDS = 20  # for a training that was asked to stop; while it compiles it cannot
LINES_SHOWN = 12  # of the output of one that failed


class TrainingError(CrystalError, RuntimeError):
    """A training that failed; the message holds the end of its output."""


class Training(NamedTuple):
    """One `crystal train`.

    Attributes:
        name: for people.
        options: of `crystal train`.
        steps: of the whole training.
    """

    name: str
    options: Train
    steps: int

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.options.out

    @property
    def output(self) -> Path:
        """The file that gets what the command prints: beside the run folder, ending in .log."""
        return self.out.with_name(f"{self.out.name}.log")

    def finished(self) -> bool:
        """Whether the checkpoint of the last step exists."""
        return (self.out / "checkpoints" / str(self.steps) / "model").is_dir()

    @property
    def command(self) -> list[str]:
        """The words of the command."""
        return [sys.executable, "-m", "crystal", "train", *command_line(self.options)]


class _Process:
    """A training that was started, its bar, and how far it is."""

    def __init__(self, training: Training, bar: Bar, slot: int, slots: int, environment: dict[str, str]) -> None:
        self.training, self.bar, self.slot = training, bar, slot
        self.start, self.step = time.time(), 0
        with training.output.open("a") as output:
            self.process = subprocess.Popen(training.command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _share_cores(self.process, slot, slots)

    def seconds(self) -> float:
        """From the start to the last output: when the process ends, the caller may be busy with another training."""
        return max(self.training.output.stat().st_mtime - self.start, 0.0)

    def update(self) -> bool:
        """Show how far it is; True when it has ended well. Raises TrainingError when it has failed."""
        code = self.process.poll()
        lines = read_metrics(self.training.out)
        trained = [line for line in lines if "loss" in line]
        scores = [line["val_map"] for line in lines if line.get("val_map") is not None]
        note = f"loss {trained[-1]['loss']:.2f}" if trained else "compiling, about a minute"
        note += f", mAP {scores[-1]:.2f}" if scores else ""
        self.step = int(trained[-1]["step"]) if trained else 0
        self.bar(self.step, note)
        # What comes after the last checkpoint does not matter here.
        if code and not self.training.finished():
            end = "\n".join(self.training.output.read_text(errors="replace").splitlines()[-LINES_SHOWN:])
            raise TrainingError(
                f"training {self.training.name} ended with code {code}; the end of {self.training.output} is\n{end}"
            )
        return code is not None


def _share_cores(process: subprocess.Popen, index: int, count: int) -> None:
    """Give the process its own cores, where the system allows it: XLA's threads of two processes on the same cores
    get in each other's way.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, cores[index::count] or cores)


def _stop(processes: Iterable[subprocess.Popen]) -> None:
    """Ask those that still run to write a checkpoint and end, and wait for them."""
    running = [p for p in processes if p.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """So that the trainings do not outlive this process."""

    def stop(number: int, _frame: Any) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def train_in_parallel(
    trainings: Sequence[Training], *, bars: Bars, compiled: Path, at_once: int = 2
) -> Generator[tuple[Training, float | None]]:
    """Do all trainings, `at_once` at a time; yields each that has ended, with the seconds it took; None if it went on
    from an earlier call.

    Args:
        trainings: in the order in which they start.
        bars: gets a bar for each training and, if there are more than `at_once`, one for all of them.
        compiled: folder for compiled programs, so that trainings of the same shapes share them.
        at_once: how many run at a time; each gets its share of the cores and, on a GPU, as much memory as it needs.

    Raises:
        TrainingError: one has failed; the others were stopped and can go on later.
    """
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false" if at_once > 1 else "true",  # on a GPU they share its memory
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(compiled.absolute())),
    }
    before = {training.out: _steps_logged(training) for training in trainings}
    total = sum(training.steps - before[training.out] for training in trainings)
    overall = bars.add("all trainings", total) if len(trainings) > at_once and total else None
    waiting, running, done = list(trainings), [], 0
    try:
        with _sigterm_as_exception():
            while waiting or running:
                free = [slot for slot in range(at_once) if slot not in {one.slot for one in running}]
                for slot in free[: len(waiting)]:
                    training = waiting.pop(0)
                    bar = bars.add(f"training {training.name}", training.steps)
                    running.append(_Process(training, bar, slot, at_once, environment))
                time.sleep(0.5)
                ended = [one for one in running if one.update()]
                if overall:
                    now = sum(max(one.step - before[one.training.out], 0) for one in running)
                    overall(done + now, f"{len(waiting) + len(running)} to go")
                for one in ended:
                    running.remove(one)
                    done += one.training.steps - before[one.training.out]
                    yield one.training, None if before[one.training.out] else one.seconds()
    finally:
        _stop(one.process for one in running)


def _steps_logged(training: Training) -> int:
    return max((int(line["step"]) for line in read_metrics(training.out) if "loss" in line), default=0)
