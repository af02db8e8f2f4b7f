"""What is watched during training: the metrics of the steps, their means for the log, and losses that end the run.

Metrics stay on the device until a line of the log or a checkpoint is due, so that no step waits for the host. Then
every step is checked: a loss that is NaN, infinite or far above the first ones ends the run, with the images of that
step in the message.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from crystal.errors import RunError
from crystal.training.config import TrainConfig

MAX_GROWTH = 20.0  # of the loss, relative to the first line of the log
NAMES_SHOWN = 16
COUNTS = ("positive_anchors", "positive_rois")


def memory() -> dict[str, float]:
    """Megabytes of this process's resident memory and, where devices report it, those in use on its first device."""
    found = {"memory_mb": round(psutil.Process().memory_info().rss / 1e6, 1)}
    stats = jax.local_devices()[0].memory_stats()
    return found | ({"device_memory_mb": round(stats["bytes_in_use"] / 1e6, 1)} if stats else {})


class Monitor:
    """The metrics of the steps since the last line of the log.

    Args:
        config: batch size and how many steps in a row may be skipped.
        names: gives the file names of image ids.
        out: the run folder, for messages.
    """

    def __init__(self, config: TrainConfig, names: Callable[[Iterable[int]], list[str]], out: Path) -> None:
        self._config, self._names, self._out = config, names, out
        self._steps: list[dict[str, Any]] = []
        self._images: list[Iterable[int]] = []  # of each step; unknown for those made before the run was resumed
        self._checked = 0  # of `_steps`
        self._skipped, self._first_loss = 0, math.nan
        self._since, self._waited = time.monotonic(), 0.0

    def add(self, metrics: dict[str, Any], image_ids: Iterable[int], waited: float) -> None:
        """Add a step: its metrics, still on the device, its images, and the seconds it waited for them."""
        self._steps.append(metrics)
        self._images.append(image_ids)
        self._waited += waited

    def check(self, step: int) -> None:
        """Wait for the steps up to `step` and check those that are not checked yet.

        Raises RunError if a loss is NaN or infinite, or more than `MAX_GROWTH` times that of the first line of the
        log, or if gradients were NaN or infinite in `skips_allowed` steps in a row.
        """
        self._steps = jax.device_get(self._steps)
        for index in range(self._checked, len(self._steps)):
            values, at = self._steps[index], step - len(self._steps) + 1 + index
            self._skipped = self._skipped + 1 if values["skipped"] else 0
            loss, first = values["total"], self._first_loss
            if not np.isfinite(loss):
                self._stop(at, index, "NaN or infinite loss")
            if loss > MAX_GROWTH * first:
                self._stop(at, index, f"the loss has grown from {first:.3g} to {loss:.3g}, {loss / first:.0f} times")
            if self._skipped >= self._config.skips_allowed:
                self._stop(at, index, f"NaN or infinite gradients in {self._skipped} steps in a row")
        self._checked = len(self._steps)

    def line(self, step: int, learning_rate: float) -> dict[str, float]:
        """The means since the last line, for the log; a new line begins. Raises as `check`."""
        self.check(step)
        seconds = time.monotonic() - self._since
        mean = {name: float(np.mean([float(v[name]) for v in self._steps])) for name in self._steps[0]}
        if math.isnan(self._first_loss):
            self._first_loss = mean["total"]
        not_losses = ("total", "grad_norm", "skipped", *COUNTS)
        line = {
            "loss": mean["total"],
            **{f"loss_{name}": value for name, value in mean.items() if name not in not_losses},
            "learning_rate": learning_rate,
            "grad_norm": mean["grad_norm"],
            "skipped": mean["skipped"],
            **{name: mean[name] for name in COUNTS},
            "images_per_second": len(self._images) * self._config.batch_size / seconds,
            "input_wait_share": self._waited / seconds,
            **memory(),
        }
        self._steps, self._images, self._checked = [], [], 0
        self.restart_clock()
        return line

    def restart_clock(self) -> None:
        """Begin to measure time, at the first step."""
        self._since, self._waited = time.monotonic(), 0.0

    @contextlib.contextmanager
    def clock_stopped(self, step: int) -> Iterator[None]:
        """Leave a time out of the images per second, such as a validation's. Waits for the steps up to `step` and
        raises as `check`.
        """
        self.check(step)
        stopped = time.monotonic()
        yield
        self._since += time.monotonic() - stopped

    def get_state(self) -> dict[str, Any]:
        """The state for a checkpoint, ready for JSON: with it, a resumed run writes the lines of one not stopped."""
        steps = [{name: float(value) for name, value in values.items()} for values in jax.device_get(self._steps)]
        first = None if math.isnan(self._first_loss) else self._first_loss
        return {"unlogged": steps, "skipped": self._skipped, "first_loss": first}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`."""
        self._steps, self._images = list(state["unlogged"]), []
        self._checked, self._skipped = len(self._steps), state["skipped"]
        self._first_loss = math.nan if state["first_loss"] is None else state["first_loss"]

    def _stop(self, step: int, index: int, problem: str) -> None:
        names = self._names(self._images[index - (len(self._steps) - len(self._images))])
        saved = [int(p.name) for p in (self._out / "checkpoints").glob("*") if p.name.isdigit()]
        newest = (
            f"the last checkpoint is {self._out / 'checkpoints' / str(max(saved))}" if saved else "no checkpoint yet"
        )
        raise RunError(
            f"step {step}: {problem}; its images: {', '.join(names[:NAMES_SHOWN])}"
            f"{' ...' if len(names) > NAMES_SHOWN else ''}; {newest}: look at these images (crystal check), or try a "
            f"lower learning rate in another --out: --learning-rate {self._config.phases[0].learning_rate / 3:.1g}"
        )
