"""RUN/best: the weights that did best on the validation images so far, as a run's folder of its own."""

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
    """Keeps the best; `--weights RUN/best` takes it.

    Args:
        out: the run's folder, with its config.json.
        step: where the run goes on; what it did after that counts no more.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._out = out
        before = [line[MEASURE] for line in read_metrics(out) if MEASURE in line and line["step"] <= step]
        self._value = max(before, default=float("-inf"))

    def offer(self, step: int, model: MaskRCNN, measured: dict[str, float]) -> None:
        """Keep `model` if it is better than all before it. One of several processes writes.

        Raises RunError if the disk does not take it.
        """
        value = measured.get(MEASURE, float("-inf"))
        if value <= self._value:
            return
        self._value = value
        if not processes.is_first():
            return
        folder = self._out / "best" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._out / "best" / "config.json", (self._out / "config.json").read_text())
        new = folder / str(step)
        if new.exists():  # of a run that was killed after it and has come to the same step again
            shutil.rmtree(new)
        require_room(folder, nnx.state(model))
        with explained_saving(folder):
            checkpoint.save(model, new)
        for old in folder.iterdir():
            if old != new:
                shutil.rmtree(old)
