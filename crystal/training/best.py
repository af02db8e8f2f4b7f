"""RUN/best: the model with the best validation so far, in a run folder of its own."""

import shutil
from pathlib import Path

from flax import nnx

from crystal.files import write_atomically
from crystal.training import processes
from crystal.training.checkpoints import explained_saving, require_room
from crystal.training.log import read_metrics
from maskrcnn_jax import checkpoint
from maskrcnn_jax.model import MaskRCNN

MEASURE = "val_map"


class Best:
    """Keeps the best model; `--weights RUN/best` uses it.

    Args:
        out: the run folder, with its config.json.
        step: after which the run goes on; validations of later steps do not count.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._out = out
        lines = [line for line in read_metrics(out) if line["step"] <= step]
        before = [line[MEASURE] for line in lines if line.get(MEASURE) is not None]
        self._value = max(before, default=float("-inf"))

    def offer(self, step: int, model: MaskRCNN, measured: dict[str, float]) -> None:
        """Write `model` if `measured` is better than all before. Process 0 writes; the others only compare.

        Raises RunError if the disk does not take it.
        """
        value = float(f"{measured.get(MEASURE, float('-inf')):.6g}")  # as in the log, which a resumed run reads
        if not value > self._value:  # false for NaN, too
            return
        self._value = value
        if not processes.is_first():
            return
        folder = self._out / "best" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._out / "best" / "config.json", (self._out / "config.json").read_text())
        new = folder / str(step)
        if new.exists():  # the run was killed after writing it and has come to the same step again
            shutil.rmtree(new)
        require_room(folder, nnx.state(model))
        with explained_saving(folder):
            checkpoint.save(model, new)
        for old in folder.iterdir():
            if old != new:
                shutil.rmtree(old)
