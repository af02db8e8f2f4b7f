"""The training loop: batches in, a run folder out, from which the run can go on with the very next batch."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from signal import Signals
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from crystal.data.loader import TrainingIterator
from crystal.data.preparation import Batch
from crystal.training import processes
from crystal.training.best import Best
from crystal.training.checkpoints import Checkpoints
from crystal.training.config import Phase, TrainConfig
from crystal.training.log import Log
from crystal.training.monitor import Monitor
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth
from maskrcnn_jax.training.averaging import swap_average
from maskrcnn_jax.training.mesh import data_mesh, on_one_device, replicate, shard_batch
from maskrcnn_jax.training.optimizer import Schedule, make_optimizer, make_schedule
from maskrcnn_jax.training.state import TrainState, create_state, to_model
from maskrcnn_jax.training.step import make_step

Validate = Callable[[MaskRCNN], dict[str, float]]


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has stopped between two steps, with a checkpoint."""


def to_devices(batch: Batch, mesh: Mesh) -> tuple[jax.Array, GroundTruth, jax.Array]:
    """(images, truth, windows) of the batch, spread over the devices of all processes."""
    truth = (batch.boxes, batch.classes, batch.masks, batch.valid, batch.crowd)
    images, windows, *truth = shard_batch((batch.images, batch.windows, *truth), mesh)
    return images, GroundTruth(*truth), windows


# Runs in one process that differ only in images and seeds share an optimizer and, with it, the compiled step.
_shared_step = lru_cache(8)(make_step)


@lru_cache
def _shared_schedule(phase: Phase, accumulate: int, warmup: int, decay: Schedule) -> optax.Schedule:
    """By the number of updates, of which there is one in `accumulate` steps."""
    updates, warmup = phase.steps // accumulate, warmup // accumulate
    return make_schedule(phase.learning_rate, steps=updates, warmup=warmup, decay=decay)


_shared_optimizer = lru_cache(make_optimizer)


class Trainer:
    """One run: `Trainer(model, batches, config, out).run()`.

    Args:
        model: where the run starts; a checkpoint in `out` takes its place.
        batches: endless, with a position that can be saved.
        config: phases, optimizer, intervals.
        out: the run folder.
        validate: called with the model every `validate_every` steps and at the end; its numbers go into the log.
        progress: called with the number of steps made and a note.

    Raises:
        RunError: there are checkpoints in `out`, but none can be read.
    """

    def __init__(
        self,
        model: MaskRCNN,
        batches: TrainingIterator,
        config: TrainConfig,
        out: Path,
        *,
        validate: Validate | None = None,
        progress: Callable[[int, str], None] = lambda done, note: None,
    ) -> None:
        self.model, self.batches, self.config = model, batches, config
        self.validate, self.progress = validate, progress
        processes.share_of_batch(config.batch_size)
        self.mesh = data_mesh()
        self.key = jax.random.key(config.seed)
        self.monitor = Monitor(config, batches.names, out)
        self.checkpoints = Checkpoints(out)
        self.step, self._optimizer = 0, None
        saved = self.checkpoints.newest_whole(model, self._optimizer_after)
        if saved:
            self.step, self.model, self._optimizer = saved.step, saved.model, saved.optimizer
            self.batches.set_state(saved.position["input"])
            self.monitor.set_state(saved.position["monitor"])
        self.best = Best(out, self.step)
        self.log = Log(out, self.step) if processes.is_first() else None

    def run(self) -> MaskRCNN:
        """Train to the end of the schedule and return the model.

        Raises Interrupted when asked to stop, RunError when the loss is NaN, infinite or grows without bounds, or when
        the disk does not take the log or a checkpoint.
        """
        try:
            with processes.stop_requests() as stop_after:
                for phase, first, last in self._phases():
                    if self.step < last:
                        self._run_phase(phase, first, last, stop_after)
        finally:
            self.batches.close()
            if self.log:
                self.log.close()
            self.checkpoints.close()
        return self.model

    def _phases(self) -> list[tuple[Phase, int, int]]:
        """Each phase, with the steps made before it and at its end."""
        ends = np.cumsum([0, *(phase.steps for phase in self.config.phases)]).tolist()
        return list(zip(self.config.phases, ends[:-1], ends[1:], strict=True))

    def _begin(self, phase: Phase) -> tuple[nnx.GraphDef, TrainState, optax.GradientTransformation, optax.Schedule]:
        c = self.config
        schedule = _shared_schedule(phase, c.accumulate, c.warmup, c.decay)
        optimizer = _shared_optimizer(
            schedule,
            kind=c.optimizer,
            weight_decay=c.weight_decay,
            momentum=c.momentum,
            clip_norm=c.clip_norm,
            accumulate=c.accumulate,
            average_decay=c.ema_decay,
        )
        graph, state = create_state(self.model, optimizer, part=phase.part, norms=c.train_norms)
        return graph, state, optimizer, schedule

    def _optimizer_after(self, step: int) -> Any:
        """The optimizer's state after `step` steps, as shapes and types."""
        phase = next((phase for phase, _, last in self._phases() if step <= last), self.config.phases[-1])
        return jax.eval_shape(lambda: self._begin(phase)[1].optimizer)

    def _run_phase(self, phase: Phase, first: int, last: int, stop_after: Callable[[int], Signals | None]) -> None:
        config, monitor = self.config, self.monitor
        graph, state, optimizer, schedule = self._begin(phase)
        state = state._replace(step=jnp.array(self.step, jnp.int32))
        if self.step > first:  # the run goes on within the phase; each phase begins with a new optimizer
            state = swap_average(state._replace(optimizer=self._optimizer))
        state, self._optimizer = replicate(state, self.mesh), None
        train_step = _shared_step(graph, optimizer, self.mesh)

        monitor.restart_clock()
        metrics: dict[str, jax.Array] = {}
        while self.step < last:
            asked = time.monotonic()
            batch = next(self.batches)
            # While the device still works on the step before, the input keeps nobody waiting.
            idle = all(value.is_ready() for value in metrics.values())  # type: ignore[attr-defined]
            waited = time.monotonic() - asked if idle else 0.0
            state, metrics = train_step(state, *to_devices(batch, self.mesh), self.key)
            self.step += 1
            monitor.add(metrics, batch.image_ids, waited)
            if self.step % config.log_every == 0 or self.step == last:
                line = monitor.line(self.step, float(np.asarray(schedule((self.step - first) // config.accumulate))))
                self._write_log(line)
                self.progress(self.step, f"loss {line['loss']:.3f}")
            validating = config.validate_every and self.step % config.validate_every == 0
            if self.validate and (validating or self.step == config.steps):
                with monitor.clock_stopped(self.step):
                    self._validate(graph, state, self.validate)
            stop = stop_after(self.step)
            if stop or self.step % config.checkpoint_every == 0 or self.step == last:
                monitor.check(self.step)  # a model with NaN is not saved
                position = {"input": self.batches.get_state(), "monitor": monitor.get_state()}
                saved = swap_average(state)  # whoever loads the checkpoint gets the average, if there is one
                self.checkpoints.save(self.step, to_model(graph, saved.params, saved.frozen), saved.optimizer, position)
            if stop:
                raise Interrupted(stop.name)
        state = on_one_device(swap_average(state))
        self.model = to_model(graph, state.params, state.frozen)

    def _validate(self, graph: nnx.GraphDef, state: TrainState, validate: Validate) -> None:
        """Every process validates by itself, so that none waits for another; only process 0 writes what it found."""
        state = on_one_device(swap_average(state))
        # A copy: the next step reuses the state's memory.
        model = to_model(graph, *jax.tree.map(jnp.copy, (state.params, state.frozen)))
        measured = validate(model)
        self._write_log(measured)
        self.best.offer(self.step, model, measured)

    def _write_log(self, values: dict[str, float]) -> None:
        if self.log:
            self.log.write(step=self.step, **values)
