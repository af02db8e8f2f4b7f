"""RUN/metrics.jsonl, a line for each logged step, and the same numbers for TensorBoard."""

import contextlib
import errno
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from crystal.errors import RunError
from crystal.files import write_atomically


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl, None for numbers that are not finite, without one that is only partly written."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line, parse_constant=lambda _: None) for line in lines if _step_of(line) < math.inf]


def _step_of(line: str) -> float:
    """The step of a line, infinity where the line is incomplete."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class Log:
    """The log of a run that starts, or goes on, after `step`: lines of later steps are removed."""

    def __init__(self, out: Path, step: int) -> None:
        path = out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        write_atomically(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
        self._file = path.open("a")
        # Not tensorboardX's SummaryWriter: a full disk ends its thread with a stack trace and can block the run.
        folder = out / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._curves = EventsWriter(str(folder / "events"), f".{os.getpid()}.{step}")
        # TensorBoard ignores from here on what earlier files have of later steps.
        self._curves.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, *, step: int, **values: float) -> None:
        """Write one line, numbers with six digits, NaN and infinity as null, and hand it to the system at once.

        Raises RunError if the disk does not take it.
        """
        rounded = {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in values.items()}
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        try:
            self._file.write(json.dumps({"step": step} | rounded, allow_nan=False) + "\n")
            self._file.flush()
            self._curves.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=points)))
            self._curves.flush()
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = f"{'make room and ' if full else ''}repeat the command"
            raise RunError(f"cannot write {self._file.name}: {error.strerror}; {remedy}") from error

    def close(self) -> None:
        """Close the files. What a full disk does not take is lost: `write` has raised an error about it already."""
        for file in (self._file, self._curves):
            with contextlib.suppress(OSError):
                file.close()
