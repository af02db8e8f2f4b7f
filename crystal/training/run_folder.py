"""The folder of a training run.

RUN/config.json        all settings, command, versions, fingerprint of the data
RUN/metrics.jsonl      a line for each logged step: step, loss, loss_rpn_class, ..., learning_rate, grad_norm (`log.py`)
RUN/tensorboard/       the same for TensorBoard
RUN/checkpoints/<n>/   model, config, optimizer and input position after n steps (`checkpoints.py`)
RUN/.lock              locked while a process trains into the folder; RUN/.lock.json says which
RUN/best/              the best model by validation, itself a run folder with config.json and checkpoints/<n>
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from crystal.errors import RunError
from crystal.files import write_atomically
from crystal.prediction.trained_model import read_json
from crystal.training.config import TrainConfig, differences
from crystal.training.machine import versions

MAY_CHANGE = ("workers", "log_every", "checkpoint_every")  # while a run goes on: no result depends on them


@contextmanager
def locked(out: Path, *, resume: bool = False) -> Iterator[None]:
    """Keep other processes from training into the run folder, which is made if it does not exist. The system frees the
    lock of a process that ends, however it ends; where it has no locks there is none.

    Args:
        out: the run folder.
        resume: refuse a folder without a run.

    Raises:
        RunError: another process trains into it, it cannot be made, or, with `resume`, it holds no run.
    """
    if resume and not (out / "config.json").exists():
        raise RunError(f"{out} holds no run to go on with; leave out --resume to begin one")
    holder = out / ".lock.json"
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError):
                stack.enter_context(FileLock(out / ".lock", timeout=0))
            write_atomically(holder, json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        except Timeout as error:
            who = "another process"
            with suppress(RunError):  # it has not written yet who it is
                values = read_json(holder)
                who = f"process {values.get('process')} on {values.get('host')}"
            raise RunError(
                f"{out}: {who} trains into this folder; wait until it ends, or choose another --out"
            ) from error
        except OSError as error:
            raise RunError(f"cannot create {out}: {error.strerror}; choose another --out") from error
        stack.callback(holder.unlink, missing_ok=True)
        yield


def claim(out: Path, config: TrainConfig, init: str | None, data: dict[str, str] | None = None) -> None:
    """Write RUN/config.json, or check that the one there has the same settings.

    A run without a checkpoint takes any settings, and any run those of `MAY_CHANGE`.

    Args:
        out: the run folder; it is made if it does not exist.
        config: all settings.
        init: the weights that the run starts from.
        data: fingerprints of the data by split; None: not compared.

    Raises:
        RunError: the folder holds a run with other settings, or the config.json of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    described = {
        "train": json.loads(json.dumps(config.to_dict())),
        "init": init,
        "data": data or {},
        "command": " ".join(sys.argv),
        "versions": versions(),
    }
    path = out / "config.json"
    present = read_json(path) if path.exists() else described
    if not isinstance(present.get("train"), dict):
        raise RunError(f"{path} is not the config of a training run; choose another --out")
    if not any(p.name.isdigit() for p in (out / "checkpoints").glob("*")):
        write_atomically(path, json.dumps(described, indent=1))
        return
    present["train"] |= {name: described["train"][name] for name in MAY_CHANGE}
    # Compared are the splits that both know: a run of an earlier version did not note its validation split.
    before = present.get("data") or {}
    described["data"] = before | {split: value for split, value in described["data"].items() if split in before}
    present["data"] = before
    differing = [k for key in ("train", "init", "data") for k in differences(present.get(key), described[key], key)]
    if differing and all(name.startswith("data.") for name in differing):
        raise RunError(
            f"{out}: the data have changed since the run began ({', '.join(differing)}); choose another --out, and "
            f"--init {out} to go on from its weights"
        )
    if differing:
        raise RunError(
            f"{out} holds a run with other settings ({', '.join(differing[:6])}); choose another --out, or repeat the "
            "command that began it"
        )
    write_atomically(path, json.dumps(present, indent=1))
