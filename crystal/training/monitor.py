"""What a run is watched by: the metrics of its steps, gathered for a line of the log, and what must not go unnoticed.

Metrics stay on the device until a line is due, so that no step waits for the host. Then each step is looked at: one
whose loss is not a number, or has grown beyond all measure, ends the run by name, with the images that it had seen.
"""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from crystal.errors import RunError
from crystal.training.config import TrainConfig

EXPLODED = 20.0  # times the loss of the run's first line
NAMES_SHOWN = 16
COUNTS = ("positive_anchors", "positive_rois")


def memory() -> dict[str, float]:
    """Megabytes that this process holds, and, where devices count it, those in use on the first of them."""
    found = {"memory_mb": round(psutil.Process().memory_info().rss / 1e6, 1)}
    stats = jax.local_devices()[0].memory_stats()
    return found | ({"device_memory_mb": round(stats["bytes_in_use"] / 1e6, 1)} if stats else {})


class Watch:
    """The steps since the last line of the log.

    Args:
        config: intervals, batch size and how many steps may be skipped.
        names: file names of image ids.
        where: the run's folder, for messages.
    """

    def __init__(self, config: TrainConfig, names: Callable[[Iterable[int]], list[str]], where: Path) -> None:
        self.config, self.names, self.where = config, names, where
        self._steps: list[dict[str, Any]] = []
        self._images: list[Iterable[int]] = []
        self._looked = 0  # steps of this line that were looked at
        self._skipped, self._first_loss = 0, math.nan
        self._since, self._waited = time.monotonic(), 0.0

    def add(self, metrics: dict[str, Any], image_ids: Iterable[int], waited: float) -> None:
        """One step's metrics, still on the device; its images; seconds that it waited for them."""
        self._steps.append(metrics)
        self._images.append(image_ids)
        self._waited += waited

    def look(self, step: int) -> None:
        """Wait for the steps up to `step` and look at those that were not looked at.

        Raises RunError if a loss is not finite, if it is EXPLODED times that of the first line, or if gradients were
        not finite for `skips_allowed` steps in a row.
        """
        self._steps = jax.device_get(self._steps)
        for index in range(self._looked, len(self._steps)):
            values, at = self._steps[index], step - len(self._steps) + 1 + index
            self._skipped = self._skipped + 1 if values["skipped"] else 0
            if not np.isfinite(values["total"]):
                self._stop(at, index, "the loss is not a number")
            if values["total"] > EXPLODED * self._first_loss:
                self._stop(at, index, f"the loss has exploded, from {self._first_loss:.3g} to {values['total']:.3g}")
            if self._skipped >= self.config.skips_allowed:
                self._stop(at, index, f"gradients have not been finite for {self._skipped} steps")
        self._looked = len(self._steps)

    def line(self, step: int, rate: float) -> dict[str, float]:
        """The means since the last line, ready for the log; a new line begins. Raises as `look`."""
        self.look(step)
        seconds = time.monotonic() - self._since
        mean = {name: float(np.mean([float(v[name]) for v in self._steps])) for name in self._steps[0]}
        if math.isnan(self._first_loss):
            self._first_loss = mean["total"]
        own = ("total", "grad_norm", "skipped", *COUNTS)
        line = {
            "loss": mean["total"],
            **{f"loss_{name}": value for name, value in mean.items() if name not in own},
            "learning_rate": rate,
            "grad_norm": mean["grad_norm"],
            "skipped": mean["skipped"],
            **{name: mean[name] for name in COUNTS},
            "images_per_second": len(self._images) * self.config.batch_size / seconds,
            "input_wait_share": self._waited / seconds,
            **memory(),
        }
        self._steps, self._images, self._looked = [], [], 0
        self.restart_clock()
        return line

    def restart_clock(self) -> None:
        """Leave out of the next line's pace what was no training: validation, compilation."""
        self._since, self._waited = time.monotonic(), 0.0

    def get_state(self) -> dict[str, Any]:
        """What a run that is taken up again needs for the very lines of one that was not; ready for JSON."""
        steps = [{name: float(value) for name, value in values.items()} for values in jax.device_get(self._steps)]
        first = None if math.isnan(self._first_loss) else self._first_loss
        return {"unlogged": steps, "skipped": self._skipped, "first_loss": first}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`."""
        self._steps, self._images = list(state["unlogged"]), []
        self._looked, self._skipped = len(self._steps), state["skipped"]
        self._first_loss = math.nan if state["first_loss"] is None else state["first_loss"]

    def _stop(self, step: int, index: int, what: str) -> None:
        names = self.names(self._images[index - (len(self._steps) - len(self._images))])
        steps = sorted(int(p.name) for p in (self.where / "checkpoints").glob("*") if p.name.isdigit())
        kept = "nothing was saved yet"
        if steps:
            kept = f"the last good weights are {self.where / 'checkpoints' / str(steps[-1])}"
        raise RunError(
            f"step {step}: {what}; its images: {', '.join(names[:NAMES_SHOWN])}"
            f"{' ...' if len(names) > NAMES_SHOWN else ''}; {kept}: look at these images (crystal check), or try a "
            "lower learning rate in another --out"
        )
