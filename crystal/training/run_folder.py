"""A run's folder: what was asked for, what happened, and where it can go on.

RUN/config.json        the resolved settings, command and versions
RUN/metrics.jsonl      a line a logged step: step, loss, loss_rpn_class, ..., learning_rate, grad_norm
RUN/tensorboard/       the same for TensorBoard
RUN/checkpoints/<n>/   model, config, optimizer, step and input position after n steps (`checkpoints.py`)
RUN/best/              the best by validation, itself a run's folder: config.json and checkpoints/<n>
"""

import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from crystal.errors import RunError
from crystal.files import write_atomically
from crystal.prediction.trained_model import read_json
from crystal.training.config import TrainConfig, differences
from crystal.training.machine import versions


def claim(
    out: Path, config: TrainConfig, init: str | Path | None, data: dict[str, str] | None = None, *, resume: bool = False
) -> None:
    """Write RUN/config.json, or check that the one there is of the same run. `data` are fingerprints by split.

    Raises RunError if it is of another run; with `resume`, also if there is none.
    """
    if resume and not (out / "config.json").exists():
        raise RunError(f"{out} holds no run to go on with; leave out --resume to begin one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create {out}: {error.strerror}; choose another --out") from error
    described = {
        "train": json.loads(json.dumps(config.to_dict())),
        "init": None if init is None else str(init),
        "data": data or {},
        "command": " ".join(sys.argv),
        "versions": versions(),
    }
    path = out / "config.json"
    if not path.exists():
        write_atomically(path, json.dumps(described, indent=1))
        return
    present = read_json(path)
    if not (present.get("data") and described["data"]):  # a Trainer's own user need not say what the data are
        present["data"] = described["data"]
    differing = [k for key in ("train", "init", "data") for k in differences(present.get(key), described[key], key)]
    if differing:
        raise RunError(
            f"{out} holds a run with other settings ({', '.join(differing[:6])}); choose another --out, or repeat the "
            "command that began it"
        )


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl; one that is being written is left out."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # cut short by a crash, or not yet whole


class Log:
    """RUN/metrics.jsonl and the same numbers for TensorBoard, cut back to the step that a run goes on from."""

    def __init__(self, out: Path, step: int) -> None:
        path = out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        write_atomically(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
        self._file = path.open("a")
        # Not tensorboardX's SummaryWriter: its thread has no way to say that the disk is full.
        curves = out / "tensorboard"
        curves.mkdir(exist_ok=True)
        self._curves = EventsWriter(str(curves / "events"), f".{os.getpid()}.{step}")
        # TensorBoard forgets what earlier files have from here on.
        self._curves.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, *, step: int, **values: float) -> None:
        """One line, handed to the system at once; numbers with six digits."""
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        try:
            self._file.write(json.dumps({"step": step} | rounded) + "\n")
            self._file.flush()
            self._curves.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=points)))
            self._curves.flush()
        except OSError as error:
            raise RunError(
                f"cannot write {self._file.name}: {error.strerror}; make room and repeat the command"
            ) from error

    def close(self) -> None:
        """Close the files; what a full disk did not take is let go."""
        for file in (self._file, self._curves):
            with contextlib.suppress(OSError):
                file.close()


class NoLog(Log):
    """What processes other than the first have in its place: nothing is written."""

    def __init__(self) -> None:
        self.write = self.close = lambda **values: None
