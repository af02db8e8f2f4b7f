"""RUN/checkpoints: what a run goes on from, and how damaged checkpoints are noticed and passed over.

Orbax writes while the training goes on and renames the folder when all is written, so that a folder named by a step is
complete. Damage that comes later, from a failing disk or an interrupted copy, is noticed by a checksum of the arrays.
"""

import contextlib
import logging
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils

from crystal.console import console
from crystal.errors import RunError
from crystal.training import processes
from maskrcnn_jax import checkpoint
from maskrcnn_jax.model import MaskRCNN

MAX_TO_KEEP, MOST_LOOKED_AT = 2, 16
WHOLE, DAMAGED, FAILED = range(3)  # how a process fared with a checkpoint; FAILED says nothing about the checkpoint
ASIDE = "damaged-checkpoints"  # beside `checkpoints`: nothing is deleted


class Saved(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        step: steps made.
        model: the model after them.
        optimizer: the optimizer's state, NumPy arrays.
        position: the other values that were saved.
    """

    step: int
    model: MaskRCNN
    optimizer: Any
    position: dict[str, Any]


def checksum(tree: Any) -> int:
    """CRC-32 of the bytes of all arrays, in the order of the tree."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        found = zlib.crc32(np.asarray(leaf).tobytes(), found)
    return found


def require_room(folder: Path, tree: Any) -> None:
    """Raise RunError if the disk of `folder` has no room for the arrays of `tree`.

    To be called before writing: TensorStore prints stack traces of its own when the disk fills up.
    """
    needed = 1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"no room for a checkpoint in {folder}: it takes {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
            "the last finished one is kept: make room and repeat the command"
        )


@contextlib.contextmanager
def explained_saving(folder: Path) -> Iterator[None]:
    """Turn a failed write to `folder` into a RunError, and remove what is only partly written."""
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds, also for a write that began earlier
        for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        reason = "the disk is full" if "No space left" in str(error) else _first_line(error)
        raise RunError(
            f"cannot write a checkpoint to {folder}: {reason}; the last finished one is kept: see that the disk has "
            "room and can be written, and repeat the command"
        ) from error


class Checkpoints:
    """The newest two checkpoints of a run.

    Args:
        out: the run folder.
    """

    def __init__(self, out: Path) -> None:
        # Errors of Orbax's tasks are raised here as well; their own reports of them would only repeat it.
        for logger in ("asyncio", "absl"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._folder = (out / "checkpoints").absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=MAX_TO_KEEP, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, model: MaskRCNN, optimizer: Any, position: dict[str, Any]) -> None:
        """Begin to write a checkpoint; returns as soon as the arrays are copied.

        Args:
            step: steps made.
            model: the model after them.
            optimizer: the optimizer's state.
            position: what else a run needs to go on, ready for JSON: its place in the input, for one.

        Raises:
            RunError: the disk does not take it, or did not take the one before.
        """
        if step == self._manager.latest_step():
            return
        arrays = {"model": nnx.to_pure_dict(nnx.state(model)), "optimizer": optimizer}
        items = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items()},
            config=ocp.args.JsonSave(model.config.to_dict()),
            position=ocp.args.JsonSave(position),
            checksums=ocp.args.JsonSave({name: checksum(tree) for name, tree in arrays.items()}),
        )
        require_room(self._folder, arrays)
        with explained_saving(self._folder):
            self._manager.save(step, args=items)

    def newest_whole(self, model: MaskRCNN, optimizer_after: Callable[[int], Any]) -> Saved | None:
        """The newest checkpoint that is whole; None if the run has none yet.

        One that any process cannot read is passed over by all. Newer ones that are damaged are moved to
        RUN/damaged-checkpoints, with a note: Orbax would refuse to write their steps again.

        Args:
            model: of the run's config; its weights do not matter.
            optimizer_after: the optimizer's state after a number of steps, as shapes and types.

        Raises:
            RunError: there are checkpoints, but none can be read.
        """
        damaged: dict[int, str] = {}
        for step in self._steps():
            optimizer = optimizer_after(step)
            saved, error = None, None
            try:
                checkpoint.require_permission(self._folder / str(step))
                saved = self._restore(step, model, optimizer)
            except Exception as raised:
                error = raised
            mine = WHOLE if error is None else DAMAGED if checkpoint.is_damage(error) else FAILED
            readings = processes.gather([mine])[:, 0].tolist()
            if error is not None and mine == FAILED:
                raise error
            if FAILED in readings:
                raise RunError(
                    f"process {readings.index(FAILED)} could not read the checkpoint of step {step}; see its message, "
                    "and start all processes again"
                )
            if saved and DAMAGED not in readings:
                self._move_aside(damaged)
                return saved
            other = f"process {readings.index(DAMAGED)} cannot read it"
            damaged[step] = other if error is None else _first_line(error)
        if damaged:
            reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
            raise RunError(
                f"no checkpoint in {self._folder} can be read ({reasons}): begin anew in another --out, or, if another "
                "version of crystal wrote them, go on with that one"
            )
        return None

    def _steps(self) -> list[int]:
        """The newest steps that process 0 sees, newest first: all processes look at the same ones."""
        own = sorted(self._manager.all_steps(), reverse=True)[:MOST_LOOKED_AT]
        seen = processes.gather([*own, *[-1] * (MOST_LOOKED_AT - len(own))])[0].tolist()
        return [step for step in seen if step >= 0]

    def _restore(self, step: int, model: MaskRCNN, optimizer: Any) -> Saved:
        """Each process by itself: one that fails must not leave the others waiting."""
        graph, state = nnx.split(model)
        wanted = {"model": nnx.to_pure_dict(state), "optimizer": optimizer}
        found = checkpoint.read_items(self._folder / str(step), wanted, ("config", "position", "checksums"))
        for name in wanted:
            if checksum(found[name]) != found["checksums"][name]:
                raise ValueError(f"the numbers of its {name} are not those that were written")
        nnx.replace_by_pure_dict(state, jax.device_put(found["model"]))
        return Saved(step, nnx.merge(graph, state), found["optimizer"], found["position"])

    def _move_aside(self, damaged: dict[int, str]) -> None:
        folder = self._folder.parent / ASIDE
        for step, reason in damaged.items():
            console.print(
                f"note: the checkpoint of step {step} is damaged and is passed over ({reason}); it is now in {folder}",
                markup=False,
            )
            if processes.is_first():
                folder.mkdir(exist_ok=True)
                (self._folder / str(step)).rename(folder / f"{step}-{time.time_ns()}")
        if damaged:
            multihost_utils.sync_global_devices("damaged checkpoints are moved")
            self._manager.reload()

    def close(self) -> None:
        """Finish writing. Raises RunError, as `save` does, if the disk does not take a checkpoint."""
        with explained_saving(self._folder):
            self._manager.wait_until_finished()
            self._manager.close()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:120]
