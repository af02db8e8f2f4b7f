"""A run's folder: what was asked for, what happened, and where it can go on.

RUN/config.json        the resolved settings, command and versions
RUN/metrics.jsonl      a line a logged step: step, loss, loss_rpn_class, ..., learning_rate, grad_norm
RUN/checkpoints/<n>/   model, config, optimizer, step and input position after n steps (Orbax, written atomically)
"""

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from crystal.config import ConfigError, TrainConfig, differences
from crystal.errors import CrystalError
from maskrcnn_jax import checkpoint
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training.state import TrainState

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python")


class RunError(CrystalError, RuntimeError):
    """A run that cannot start or go on; the message says why and what to do."""


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step. Raises RunError, naming the file, where the disk does not take it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}; make room or choose another folder") from error


def claim(out: Path, config: TrainConfig, init: str | Path | None) -> None:
    """Write RUN/config.json, or check that the one there is of the same run. Raises RunError if it is not."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create {out}: {error.strerror}; choose another --out") from error
    described = {
        "train": json.loads(json.dumps(config.to_dict())),
        "init": None if init is None else str(init),
        "command": " ".join(sys.argv),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    path = out / "config.json"
    if not path.exists():
        write_atomically(path, json.dumps(described, indent=1))
        return
    present = _read_json(path)
    differing = [k for key in ("train", "init") for k in differences(present.get(key), described[key], key)]
    if differing:
        raise RunError(
            f"{out} holds a run with other settings ({', '.join(differing[:6])}); choose another --out, or repeat the "
            "command that began it"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}); the folder is no run of crystal train, or is damaged"
        ) from error
    return values


def load_run(run: str | Path) -> tuple[MaskRCNN, bool]:
    """The newest model of a run folder (or a plain checkpoint folder), and whether it was trained after CLAHE.

    A plain checkpoint says nothing of CLAHE: then False. Raises RunError or `checkpoint.CheckpointError`.
    """
    path = Path(run) / "config.json"
    clahe = False
    if path.exists():
        try:
            clahe = TrainConfig.from_dict(_read_json(path).get("train", {})).clahe
        except ConfigError as error:
            raise RunError(f"{path}: {error}; train anew with this version") from error
    return checkpoint.load(run), clahe


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
    """RUN/metrics.jsonl, cut back to the step that a run goes on from."""

    def __init__(self, out: Path, step: int) -> None:
        path = out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        write_atomically(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
        self._file = path.open("a")

    def write(self, **values: Any) -> None:
        """One line, handed to the system at once; numbers with six digits."""
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        try:
            self._file.write(json.dumps(rounded) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"cannot write {self._file.name}: {error.strerror}; make room and repeat the command"
            ) from error

    def close(self) -> None:
        """Close the file; what a full disk did not take is let go."""
        with contextlib.suppress(OSError):
            self._file.close()


class Checkpoints:
    """RUN/checkpoints through Orbax: asynchronous, atomic, the newest two kept."""

    def __init__(self, out: Path, model: MaskRCNN) -> None:
        # What fails in Orbax's writing tasks is raised here as well; their own reports of it would come on top.
        for logger in ("asyncio", "absl"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._config = model.config.to_dict()
        self._folder = (out / "checkpoints").absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def newest(self) -> int:
        """The newest finished step; 0 if there is none."""
        return self._manager.latest_step() or 0

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Begin to write; returns as soon as the arrays are copied."""
        if step == self._manager.latest_step():
            return
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(_joined(state.params, state.frozen)),
            config=ocp.args.JsonSave(self._config),
            optimizer=ocp.args.StandardSave(state.optimizer),
            position=ocp.args.JsonSave(position),
        )
        # Asked first, because TensorStore prints stack traces of its own when a disk fills up under it.
        needed = 1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise RunError(
                f"no room for a checkpoint in {self._folder}: it takes {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB "
                "are free; the last finished one is kept: make room and repeat the command"
            )
        with self._explained():
            self._manager.save(step, args=items)

    def restore(self, step: int, state: TrainState, *, with_optimizer: bool) -> tuple[TrainState, dict[str, Any]]:
        """The state and input position saved at `step`, in the shape of `state`. Without the optimizer, that of
        `state` stays: a new phase begins with a new one.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, (_joined(state.params, state.frozen), state.optimizer))
        items: dict[str, Any] = {"model": ocp.args.StandardRestore(shapes[0]), "position": ocp.args.JsonRestore()}
        if with_optimizer:
            items["optimizer"] = ocp.args.StandardRestore(shapes[1])
        saved = self._manager.restore(step, args=ocp.args.Composite(**items))
        restored = TrainState(
            _part_of(saved["model"], state.params),
            _part_of(saved["model"], state.frozen),
            saved["optimizer"] if with_optimizer else state.optimizer,
            state.step,
        )
        return restored, saved["position"]

    def close(self) -> None:
        """Finish writing and let go. Raises RunError, as `save` does, if the disk did not take a checkpoint."""
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """A failed write leaves nothing half-written, and ends in a sentence."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds; a write of before may surface here
            for unfinished in self._folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(unfinished, ignore_errors=True)
            text = str(error)
            full = "RESOURCE_EXHAUSTED" in text or "No space left" in text
            raise RunError(
                f"cannot write a checkpoint to {self._folder}: {'the disk is full' if full else text[:200]}; the last "
                "finished one is kept: make room and repeat the command"
            ) from error


def _joined(a: Any, b: Any) -> Any:
    """Trained and frozen parameters in one tree, as a model's own."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return a
    return {k: _joined(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in {**a, **b}}


def _part_of(whole: Any, pattern: Any) -> Any:
    """The leaves of `whole` that `pattern` has too."""
    return {k: _part_of(whole[k], v) for k, v in pattern.items()} if isinstance(pattern, dict) else whole
