"""Training: batches in, a run folder out, that can be taken up where it stopped with the very next batch."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from crystal.data.loader import Batch, TrainingIterator
from crystal.training import processes
from crystal.training.best import Best
from crystal.training.checkpoints import Checkpoints
from crystal.training.config import Phase, TrainConfig
from crystal.training.log import Log
from crystal.training.monitor import Monitor
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth
from maskrcnn_jax.training.mesh import data_mesh, on_one_device, replicate, shard_batch
from maskrcnn_jax.training.optimizer import Rule, Schedule, make_optimizer, make_schedule
from maskrcnn_jax.training.state import TrainState, create_state, to_model
from maskrcnn_jax.training.step import make_step

Validate = Callable[[MaskRCNN], dict[str, float]]


class Interrupted(KeyboardInterrupt):
    """Asked to stop (Ctrl-C, SIGTERM) and stopped between two steps, with a checkpoint written."""

    agreed = True  # all processes of the run stop at this step


def placed(batch: Batch, mesh: Mesh) -> tuple[jax.Array, GroundTruth, jax.Array]:
    """(images, truth, windows) of all processes' batches, spread over all devices."""
    truth = (batch.boxes, batch.classes, batch.masks, batch.valid, batch.crowd)
    images, windows, *truth = shard_batch((batch.images, batch.windows, *truth), mesh)
    return images, GroundTruth(*truth), windows


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop; a second Ctrl-C interrupts at once."""
    requests: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if requests and number == signal.SIGINT:
            raise KeyboardInterrupt
        requests.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Runs of one process that differ in images and seeds alone share an optimizer and with it their compiled steps.
_shared_step = lru_cache(8)(make_step)


@lru_cache
def _shared_optimizer(
    phase: Phase, warmup: int, decay: Schedule, kind: Rule, weight_decay: float, momentum: float, clip_norm: float
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    schedule = make_schedule(phase.learning_rate, steps=phase.steps, warmup=warmup, decay=decay)
    optimizer = make_optimizer(schedule, kind=kind, weight_decay=weight_decay, momentum=momentum, clip_norm=clip_norm)
    return optimizer, schedule


class Trainer:
    """One run: `Trainer(model, batches, config, out).run()`.

    Args:
        model: where the run starts; a checkpoint in `out` takes its place.
        batches: endless, with a position that can be saved.
        config: phases, optimizer, intervals.
        out: the run folder.
        validate: called with the model every `validate_every` steps and at the end; its numbers go into the log.
        progress: called with the steps done and a note.
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
        self.model, self.batches, self.config, self.out = model, batches, config, out
        self.validate, self.progress = validate, progress
        processes.share_of_batch(config.batch_size)
        self.mesh = data_mesh()
        self.key = jax.random.key(config.seed)
        self.agreed = processes.Agreement(self.mesh)
        self.checkpoints = Checkpoints(out, model)
        self.step, self._saved = self.checkpoints.newest_whole(self._fresh)
        self.monitor = Monitor(config, batches.names, out)
        self.best = Best(out, self.step)
        self.log = Log(out, self.step) if processes.is_first() else None

    def run(self) -> MaskRCNN:
        """Train to the end of the schedule and return the model.

        Raises Interrupted when asked to stop, RunError when the loss is not finite or explodes.
        """
        try:
            with _stop_requests() as stop, processes.a_loss_ends_all():
                first = 0
                for phase in self.config.phases:
                    last = first + phase.steps
                    if self.step < last or (self.step == last == self.config.steps):
                        self._run_phase(phase, first, last, stop)
                    first = last
        finally:
            self.batches.close()
            if self.log:
                self.log.close()
            self.checkpoints.close()
        return self.model

    def _rule(self, phase: Phase) -> tuple[Any, ...]:
        """What a phase's optimizer is made of."""
        c = self.config
        return phase, c.warmup, c.decay, c.optimizer, c.weight_decay, c.momentum, c.clip_norm

    def _begin(self, phase: Phase) -> tuple[nnx.GraphDef, TrainState]:
        graph, state = create_state(
            self.model, _shared_optimizer(*self._rule(phase))[0], part=phase.part, norms=self.config.train_norms
        )
        return graph, replicate(state, self.mesh)

    def _fresh(self, step: int) -> tuple[TrainState, bool]:
        """A state as the run goes on with after `step`, and whether the optimizer saved there goes on too."""
        first = 0
        for phase in self.config.phases[:-1]:
            if step < first + phase.steps:
                break
            first += phase.steps
        else:
            phase = self.config.phases[-1]
        return self._begin(phase)[1], step > first

    def _run_phase(self, phase: Phase, first: int, last: int, stop: list[int]) -> None:
        config, monitor = self.config, self.monitor
        optimizer, schedule = _shared_optimizer(*self._rule(phase))
        graph, state = self._begin(phase)
        if self._saved:
            (state, position), self._saved = self._saved, None
            self.batches.set_state(position["input"])
            monitor.set_state(position["monitor"])
        state = state._replace(step=replicate(jnp.array(self.step, jnp.int32), self.mesh))
        train_step = _shared_step(graph, optimizer, self.mesh)

        monitor.restart_clock()
        while self.step < last:
            asked = time.monotonic()
            batch = next(self.batches)
            waited = time.monotonic() - asked
            images, truth, windows = placed(batch, self.mesh)
            state, metrics = train_step(state, images, truth, windows, self.key)
            del images, truth, windows  # or two batches are in memory when the next one comes
            self.step += 1
            monitor.add(metrics, batch.image_ids, waited)
            if self.step % config.log_every == 0 or self.step == last:
                line = monitor.line(self.step, float(np.asarray(schedule(self.step - first))))
                if self.log:
                    self.log.write(step=self.step, **line)
                self.progress(self.step, f"loss {line['loss']:.3f}")
            validating = self.validate and config.validate_every and self.step % config.validate_every == 0
            if self.validate and (validating or self.step == config.steps):
                self.model = to_model(graph, *jax.tree.map(jnp.copy, on_one_device((state.params, state.frozen))))
                found = processes.from_first(partial(self.validate, self.model))
                if self.log:
                    self.log.write(step=self.step, **found)
                self.best.offer(self.step, self.model, found)
                monitor.restart_clock()
            stopping = self.agreed(bool(stop))
            if self.step % config.checkpoint_every == 0 or self.step == last or stopping:
                monitor.check(self.step)  # nothing bad is saved
                self.checkpoints.save(self.step, state, {"input": self.batches.get_state(), "monitor": monitor.get_state()})
            if stopping:
                raise Interrupted(signal.Signals(stop[0] if stop else signal.SIGTERM).name)
        self.model = to_model(graph, *on_one_device((state.params, state.frozen)))
