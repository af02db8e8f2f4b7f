"""Training: batches in, a run folder out, that can be taken up where it stopped with the very next batch."""

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from crystal import processes
from crystal.assess import quick_map, truth_of
from crystal.config import PRESETS, Phase, TrainConfig, override
from crystal.dataset import Split, load_split, raise_if_left_out
from crystal.initial import initial_config, initial_model
from crystal.loader import Batch, TrainingIterator, training_loader
from crystal.predict import Predictor
from crystal.progress import console, one_bar
from crystal.run_folder import Checkpoints, Log, NoLog, RunError, claim
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth
from maskrcnn_jax.training.mesh import data_mesh, on_one_device, replicate, shard_batch
from maskrcnn_jax.training.optimizer import make_optimizer, make_schedule
from maskrcnn_jax.training.state import create_state, to_model
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
        self.step = self.checkpoints.newest()
        self.log = Log(out, self.step) if processes.is_first() else NoLog()

    def run(self) -> MaskRCNN:
        """Train to the end of the schedule and return the model.

        Raises Interrupted when asked to stop, RunError when gradients stay non-finite.
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
            self.log.close()
            self.checkpoints.close()
        return self.model

    def _run_phase(self, phase: Phase, first: int, last: int, stop: list[int]) -> None:
        config = self.config
        schedule = make_schedule(phase.learning_rate, steps=phase.steps, warmup=config.warmup, decay=config.decay)
        optimizer = make_optimizer(
            schedule,
            kind=config.optimizer,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            clip_norm=config.clip_norm,
        )
        graph, state = create_state(self.model, optimizer, part=phase.part, norms=config.train_norms)
        state = replicate(state, self.mesh)
        if self.step and self.step == self.checkpoints.newest():
            state, position = self.checkpoints.restore(self.step, state, with_optimizer=self.step > first)
            self.batches.set_state(position)
        state = state._replace(step=replicate(jnp.array(self.step, jnp.int32), self.mesh))
        train_step = make_step(graph, optimizer, self.mesh)

        waiting: list[dict[str, Any]] = []
        skipped_in_a_row, since, input_wait = 0, time.monotonic(), 0.0
        while self.step < last:
            asked = time.monotonic()
            batch = next(self.batches)
            input_wait += time.monotonic() - asked
            state, metrics = train_step(state, *placed(batch, self.mesh), self.key)
            self.step += 1
            waiting.append(metrics)
            if self.step % config.log_every == 0 or self.step == last:
                values = jax.device_get(waiting)  # waits for the steps: metrics are fetched once an interval
                seconds = time.monotonic() - since
                self._write(values, float(np.asarray(schedule(self.step - first))), seconds, input_wait)
                for value in values:
                    skipped_in_a_row = skipped_in_a_row + 1 if value["skipped"] else 0
                if skipped_in_a_row >= config.skips_allowed:
                    raise RunError(
                        f"step {self.step}: gradients have not been finite for {skipped_in_a_row} steps; the last good "
                        f"weights are in {self.out / 'checkpoints'}; try a lower learning rate"
                    )
                waiting, since, input_wait = [], time.monotonic(), 0.0
            validating = self.validate and config.validate_every and self.step % config.validate_every == 0
            if self.validate and (validating or self.step == config.steps):
                self.model = to_model(graph, *jax.tree.map(jnp.copy, on_one_device((state.params, state.frozen))))
                validate = partial(self.validate, self.model)
                self.log.write(step=self.step, **processes.from_first(validate))
                since = time.monotonic()
            stopping = self.agreed(bool(stop))
            if self.step % config.checkpoint_every == 0 or self.step == last or stopping:
                self.checkpoints.save(self.step, state, self.batches.get_state())
            if stopping:
                raise Interrupted(signal.Signals(stop[0] if stop else signal.SIGTERM).name)
        self.model = to_model(graph, *on_one_device((state.params, state.frozen)))

    def _write(self, values: list[dict[str, Any]], rate: float, seconds: float, input_wait: float) -> None:
        mean = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
        losses = {
            "loss" if n == "total" else f"loss_{n}": v for n, v in mean.items() if n not in ("grad_norm", "skipped")
        }
        self.log.write(
            step=self.step,
            loss=losses.pop("loss"),
            **losses,
            learning_rate=rate,
            grad_norm=mean["grad_norm"],
            skipped=mean["skipped"],
            images_per_second=len(values) * self.config.batch_size / seconds,
            input_wait_share=input_wait / seconds,
        )
        self.progress(self.step, f"loss {mean['total']:.3f}")


def resolve(
    split: Split,
    *,
    preset: str,
    init: str | None,
    steps: int | None,
    checkpoint_every: int | None,
    seed: int,
    clahe: bool,
    assignments: list[str],
) -> TrainConfig:
    """The preset with the dataset's classes and the command line's changes.

    With `init`, architecture and conventions are those of its weights; class count and schedule stay the preset's.
    """
    config = dataclasses.replace(PRESETS[preset](), seed=seed, clahe=clahe)
    model = config.model if init is None else initial_config(init)
    config = dataclasses.replace(config, model=dataclasses.replace(model, classes=split.categories))
    if checkpoint_every is not None:
        config = dataclasses.replace(config, checkpoint_every=checkpoint_every)
    if steps is not None:
        config = config.with_steps(steps)
    return override(config, assignments)


@processes.together()
def train_command(
    data: Path,
    out: Path,
    *,
    preset: str,
    init: str | None,
    steps: int | None,
    checkpoint_every: int | None,
    seed: int,
    clahe: bool,
    assignments: list[str],
) -> None:
    """`crystal train`."""
    split = load_split(data, "train")
    for problem in split.problems[:5]:
        console.print(f"note: {problem}", markup=False)
    if len(split.problems) > 5:
        console.print(f"... and {len(split.problems) - 5} more such notes on {split.source}")
    config = resolve(
        split,
        preset=preset,
        init=init,
        steps=steps,
        checkpoint_every=checkpoint_every,
        seed=seed,
        clahe=clahe,
        assignments=assignments,
    )
    model, origin = initial_model(config, init)
    batches = training_loader(
        split,
        size=config.model.image.size,
        batch_size=processes.share_of_batch(config.batch_size),
        slots=config.slots,
        seed=config.seed,
        clahe=config.clahe,
        augment=config.augment,
        workers=config.workers,
        shard=(jax.process_index(), jax.process_count()),
    )
    if processes.is_first():
        claim(out, config, init)  # only now: what is refused above leaves no folder behind
    alike = {"settings": config.to_dict(), "images": len(split.records), "versions": jax.__version__}
    processes.check_alike(alike, out / "config.json")
    console.print(origin)
    with one_bar("training", config.steps) as bar:
        trainer = Trainer(model, batches, config, out, validate=_validation(data, model, config), progress=bar)
        if trainer.step:
            console.print(f"{out}: goes on from step {trainer.step}")
        bar(trainer.step, "compiling" if trainer.step < config.steps else "finished already")
        trainer.run()
    raise_if_left_out(split)


def _validation(data: Path, model: MaskRCNN, config: TrainConfig) -> Validate | None:
    """The mAP on the first validation images with objects, if it is asked for and there are any."""
    if not config.validate_every:
        return None
    records = [r for r in load_split(data, "val").records if any(not i.crowd for i in r.instances)]
    records = records[: config.validate_images]
    truths = [truth_of(record) for record in records]
    predictor = Predictor(model, clahe=config.clahe)

    def validate(now: MaskRCNN) -> dict[str, float]:
        predictor.take_weights(now)
        return {"val_map": quick_map(predictor, records, truths)}

    return validate if records else None
