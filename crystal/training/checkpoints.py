"""RUN/checkpoints: where a run can go on, and how a damaged place is noticed and passed over.

Orbax writes beside the training and renames when all is there, so a folder with a step's name is whole when it is
written. What happens to it later, a disk that loses a block or a copy that breaks off, is found by a checksum of the
arrays: the sum of their bits, taken on the device when they are saved and again when they are read.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from crystal.console import console
from crystal.errors import RunError
from crystal.training import processes
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training.state import TrainState

KEPT = 2
PIECE = 1 << 16  # words that a checksum adds up at a time
DAMAGED = "damaged-checkpoints"  # beside `checkpoints`: nothing is deleted that a person might want to look at


@jax.jit
def _checksum(tree: Any) -> jax.Array:
    """The sum modulo 2^32 of all 32-bit words. Any single flipped bit changes it; the order of the arrays does not."""
    return sum((_sum_of_words(leaf.reshape(-1)) for leaf in jax.tree.leaves(tree)), jnp.zeros((), jnp.uint32))


def _sum_of_words(array: jax.Array) -> jax.Array:
    """In pieces: XLA's CPU compiler copies what it reinterprets, which would be the whole state once more."""
    pieces, rest = divmod(array.size, PIECE)

    def add(so_far: jax.Array, start: Any, size: int) -> jax.Array:
        piece = jax.lax.dynamic_slice_in_dim(array, start, size)
        return so_far + jnp.sum(jax.lax.bitcast_convert_type(piece, jnp.uint32), dtype=jnp.uint32)

    total = add(jnp.zeros((), jnp.uint32), pieces * PIECE, rest)
    return jax.lax.fori_loop(0, pieces, lambda i, total: add(total, i * PIECE, PIECE), total) if pieces else total


def require_room(folder: Path, tree: Any) -> None:
    """Raise RunError if the disk of `folder` has no room for the arrays of `tree`.

    Asked before writing, because TensorStore prints stack traces of its own when a disk fills up under it.
    """
    needed = 1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"no room for a checkpoint in {folder}: it takes {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
            "the last finished one is kept: make room and repeat the command"
        )


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """A failed write to `folder` leaves nothing half-written, and ends in a sentence: RunError."""
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds; a write of before may surface here
        for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        text = str(error)
        full = "RESOURCE_EXHAUSTED" in text or "No space left" in text
        raise RunError(
            f"cannot write a checkpoint to {folder}: {'the disk is full' if full else text[:200]}; the last finished "
            "one is kept: make room and repeat the command"
        ) from error


class Checkpoints:
    """The newest two places of a run, written asynchronously and atomically."""

    def __init__(self, out: Path, model: MaskRCNN) -> None:
        # What fails in Orbax's writing tasks is raised here as well; their own reports of it would come on top.
        for logger in ("asyncio", "absl"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._config = model.config.to_dict()
        self._folder = (out / "checkpoints").absolute()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Begin to write; returns as soon as the arrays are copied. `position`, plain values, is what else a run needs
        to go on: its place in the input, and what it has not yet logged.
        """
        if step == self._manager.latest_step():
            return
        model = _joined(state.params, state.frozen)
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            config=ocp.args.JsonSave(self._config),
            optimizer=ocp.args.StandardSave(state.optimizer),
            position=ocp.args.JsonSave(position),
            checksums=ocp.args.JsonSave({"model": int(_checksum(model)), "optimizer": int(_checksum(state.optimizer))}),
        )
        require_room(self._folder, state)
        with explained(self._folder):
            self._manager.save(step, args=items)

    def newest_whole(
        self, fresh: Callable[[int], tuple[TrainState, bool]]
    ) -> tuple[int, tuple[TrainState, dict[str, Any]] | None]:
        """The newest step whose checkpoint is whole, and what it holds; (0, None) where none was written yet.

        Newer ones that are damaged are said, and moved out of the way. `fresh(step)` is a state as the run has it after
        `step`, and whether its optimizer is the saved one: a new phase begins with a new one.

        Raises RunError if there are some and none can be read: whether to begin anew is for a person to say.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            state, with_optimizer = fresh(step)
            try:
                found = self._restore(step, state, with_optimizer=with_optimizer)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                damaged[step] = (str(error).strip().splitlines() or [repr(error)])[0][:120]
                continue
            if damaged:
                self._put_aside(damaged)
            return step, found
        if damaged:
            raise RunError(
                f"no checkpoint in {self._folder} can be read "
                f"({'; '.join(f'step {step}: {why}' for step, why in damaged.items())}): if they are damaged, remove "
                "that folder to begin anew; if another version wrote them, go on with that one"
            )
        return 0, None

    def _restore(self, step: int, state: TrainState, *, with_optimizer: bool) -> tuple[TrainState, dict[str, Any]]:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, (_joined(state.params, state.frozen), state.optimizer))
        items: dict[str, Any] = {
            "model": ocp.args.StandardRestore(shapes[0]),
            "position": ocp.args.JsonRestore(),
            "checksums": ocp.args.JsonRestore(),
        }
        if with_optimizer:
            items["optimizer"] = ocp.args.StandardRestore(shapes[1])
        saved = self._manager.restore(step, args=ocp.args.Composite(**items))
        for name in ("model", "optimizer") if with_optimizer else ("model",):
            if int(_checksum(saved[name])) != saved["checksums"][name]:
                raise ValueError(f"the numbers of its {name} are not those that were written")
        restored = TrainState(
            _part_of(saved["model"], state.params),
            _part_of(saved["model"], state.frozen),
            saved["optimizer"] if with_optimizer else state.optimizer,
            state.step,
        )
        return restored, saved["position"]

    def _put_aside(self, damaged: dict[int, str]) -> None:
        aside = self._folder.parent / DAMAGED
        for step, why in damaged.items():
            console.print(
                f"note: the checkpoint of step {step} is damaged and is passed over ({why}); it is now in {aside}",
                markup=False,
            )
        self._manager.close()
        if processes.is_first():
            aside.mkdir(exist_ok=True)
            for step in damaged:
                taken = sum(p.name.split("-")[0] == str(step) for p in aside.iterdir())
                (self._folder / str(step)).rename(aside / (f"{step}-{taken}" if taken else str(step)))
        processes.from_first(dict)  # no one looks at the folder before that
        self._manager = self._open()

    def close(self) -> None:
        """Finish writing and let go. Raises RunError, as `save` does, if the disk did not take a checkpoint."""
        with explained(self._folder):
            self._manager.wait_until_finished()
            self._manager.close()


def _joined(a: Any, b: Any) -> Any:
    """Trained and frozen parameters in one tree, as a model's own."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return a
    return {k: _joined(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in {**a, **b}}


def _part_of(whole: Any, pattern: Any) -> Any:
    """The leaves of `whole` that `pattern` has too."""
    return {k: _part_of(whole[k], v) for k, v in pattern.items()} if isinstance(pattern, dict) else whole
