"""Several trainings at once, each a `crystal train` of its own: one of them keeps little more than one CPU core busy.

They end together: when one fails, or when this process is asked to stop, the others write a checkpoint and end too, and
the same command takes all of them up again.
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

GRACE_S = 20  # for a child that was asked to stop to write its checkpoint; compiling it cannot hear


class TrainingError(CrystalError, RuntimeError):
    """A training that ended before its time; the message holds its last words."""


class Training(NamedTuple):
    """One `crystal train`.

    Attributes:
        name: for people.
        options: of `crystal train`; what it prints goes into the file beside the run folder that ends in .log.
        steps: how many it takes.
    """

    name: str
    options: Train
    steps: int

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.options.out

    @property
    def log(self) -> Path:
        """Where what it prints goes."""
        return self.out.with_name(f"{self.out.name}.log")

    def finished(self) -> bool:
        """Whether the checkpoint of its last step is there."""
        return (self.out / "checkpoints" / str(self.steps) / "model").is_dir()

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, "-m", "crystal", "train", *command_line(self.options)]


class _Running:
    """A started training, its bar, and what its log says."""

    def __init__(self, training: Training, bar: Bar, slot: int, slots: int, environment: dict[str, str]) -> None:
        self.training, self.bar, self.slot = training, bar, slot
        self.start, self.step = time.time(), 0
        with training.log.open("a") as log:
            self.process = subprocess.Popen(training.command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _give_cores(self.process, slot, slots)

    def seconds(self) -> float:
        """From its start to the last line that it printed: when it ends, nobody may be looking."""
        return max(self.training.log.stat().st_mtime - self.start, 0.0)

    def look(self) -> bool:
        """Show how far it is; True when it has ended well. Raises TrainingError when it has ended otherwise."""
        code = self.process.poll()
        lines = read_metrics(self.training.out)
        trained = [line for line in lines if "loss" in line]
        scores = [line["val_map"] for line in lines if line.get("val_map") is not None]
        note = f"loss {trained[-1]['loss']:.2f}" if trained else "compiling, about a minute"
        note += f", mAP {scores[-1]:.2f}" if scores else ""
        self.step = int(trained[-1]["step"]) if trained else 0
        self.bar(self.step, note)
        # A training that was whole can still complain of its data at the end; who asked for it says so.
        if code and not self.training.finished():
            raise TrainingError(
                f"training {self.training.name} ended with code {code}; {_last_lines(self.training.log)}"
            )
        return code is not None


def _give_cores(process: subprocess.Popen, index: int, count: int) -> None:
    """Its own share of the cores, where the system lets us say so: two XLA thread pools on the same cores get in each
    other's way.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = cores[index::count] or cores
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, share)


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-12:]
    return f"the end of {log} is\n" + "\n".join(lines)


def _stop(processes: Iterable[subprocess.Popen]) -> None:
    """Ask what still runs to checkpoint and end, and wait for it."""
    running = [p for p in processes if p.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """A scheduler's SIGTERM as an exception, so that the children do not outlive it."""

    def stop(number: int, _frame: Any) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def train_side_by_side(
    trainings: Sequence[Training], *, bars: Bars, compiled: Path, at_once: int = 2
) -> Generator[tuple[Training, float | None]]:
    """Train them all, `at_once` at a time; yields each that has ended, with the seconds that it took, or None where it
    went on from an earlier call.

    Args:
        trainings: in the order in which they start.
        bars: gets a bar a training, and where there are more than `at_once` one for all of them.
        compiled: folder for compiled programs, so that the next training of the same shapes starts at once.
        at_once: how many run at a time; each gets its share of the cores, and on a GPU as much memory as it asks for.

    Raises:
        TrainingError: one has failed; the others were stopped, and can be taken up again.
    """
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false" if at_once > 1 else "true",  # on a GPU they share its memory
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(compiled.absolute())),
    }
    before = {training.out: _logged(training) for training in trainings}
    whole = sum(training.steps - before[training.out] for training in trainings)
    overall = bars.add("all trainings", whole) if len(trainings) > at_once and whole else None
    waiting, running, done = list(trainings), [], 0
    try:
        with _terminable():
            while waiting or running:
                free = [slot for slot in range(at_once) if slot not in {r.slot for r in running}]
                for slot in free[: len(waiting)]:
                    training = waiting.pop(0)
                    bar = bars.add(f"training {training.name}", training.steps)
                    running.append(_Running(training, bar, slot, at_once, environment))
                time.sleep(0.5)
                ended = [one for one in running if one.look()]
                if overall:
                    now = sum(max(one.step - before[one.training.out], 0) for one in running)
                    overall(done + now, f"{len(waiting) + len(running)} to go")
                for one in ended:
                    running.remove(one)
                    done += one.training.steps - before[one.training.out]
                    yield one.training, None if before[one.training.out] else one.seconds()
    finally:
        _stop(one.process for one in running)


def _logged(training: Training) -> int:
    return max((int(line["step"]) for line in read_metrics(training.out) if "loss" in line), default=0)
