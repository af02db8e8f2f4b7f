"""`crystal train`: from options to a run folder; the same command again goes on where it stopped."""

import contextlib
import dataclasses
from pathlib import Path

import jax

from crystal.console import console, one_bar, warn
from crystal.data.classes import with_classes_of
from crystal.data.coco_file import has_split
from crystal.data.dataset import Split, left_out, load_split, raise_if_nothing_to_learn
from crystal.data.fingerprint import fingerprint
from crystal.data.loader import training_loader
from crystal.evaluation.assessment import map_at_50, require_sizes, truth_of
from crystal.prediction.compilation_cache import use_compilation_cache
from crystal.prediction.package_weights import NAMED
from crystal.prediction.predictor import Predictor
from crystal.prediction.trained_model import for_this_machine
from crystal.prediction.zooms import as_trained
from crystal.training import processes
from crystal.training.config import PRESETS, TrainConfig, override
from crystal.training.following import fixed_by, follow, in_words
from crystal.training.machine import versions
from crystal.training.options import Train, start_of
from crystal.training.run_folder import claim, locked
from crystal.training.starting_weights import starting_config, starting_model, starting_weights
from crystal.training.trainer import Trainer, Validate
from maskrcnn_jax.model import MaskRCNN


def resolve(split: Split, options: Train) -> TrainConfig:
    """The preset with the dataset's classes, the command line's changes, and for the rest what suits the data.

    With --init FILE, architecture and conventions are those of its weights, but for classes and CLAHE. How it is
    computed is crystal's choice, which --set can change.
    """
    config = dataclasses.replace(PRESETS[options.preset](), seed=options.seed)
    path = starting_weights(start_of(options))
    model = config.model if path in (None, *NAMED.values()) else starting_config(path)
    image = dataclasses.replace(model.image, clahe=options.clahe, zooms=config.model.image.zooms)
    model = for_this_machine(dataclasses.replace(model, classes=split.categories, image=image))
    config = dataclasses.replace(config, model=model)
    if options.checkpoint_every is not None:
        config = dataclasses.replace(config, checkpoint_every=options.checkpoint_every)
    if options.steps is not None:
        config = config.with_steps(options.steps)
    if options.learning_rate is not None:
        config = config.with_learning_rate(options.learning_rate)
    config = override(config, list(options.set))
    return follow(config, split.records, fixed_by(options.set, options.steps))


def train_command(options: Train) -> int:
    """`crystal train`."""
    data, out = options.data, options.out
    processes.connect()
    use_compilation_cache()
    split = load_split(data, "train", crowds_as_objects=options.crowds_as_objects)
    raise_if_nothing_to_learn(split)
    for problem in split.problems[:5]:
        console.print(f"note: {problem}", markup=False)
    if len(split.problems) > 5:
        console.print(f"... and {len(split.problems) - 5} more such notes on {split.source}")
    config = resolve(split, options)
    model, origin = starting_model(config, starting_weights(start_of(options)))
    batches = training_loader(
        split,
        size=config.model.image.size,
        zooms=config.model.image.zooms or (1.0, 1.0),
        batch_size=processes.share_of_batch(config.batch_size),
        slots=config.slots,
        seed=config.seed,
        clahe=config.model.image.clahe,
        augment=config.augment,
        workers=config.workers,
        shard=(jax.process_index(), jax.process_count()),
    )
    require_sizes(split.records)
    validate = _validation(data, config, crowds_as_objects=options.crowds_as_objects)
    contents = {"train": fingerprint(split)}
    if validate is not None:  # what is the best so far depends on it
        contents["val"] = fingerprint(load_split(data, "val", crowds_as_objects=options.crowds_as_objects))
    with contextlib.ExitStack() as lock:
        if processes.is_first():  # not earlier: what is refused above leaves no folder behind
            lock.enter_context(locked(out, resume=options.resume))
            claim(out, config, start_of(options), contents)
        alike = {"settings": config.to_dict(), "data": contents, "versions": versions()}
        processes.check_alike(alike, out / "config.json")
        console.print(origin)
        console.print(in_words(config))
        with one_bar("training", config.steps) as bar:
            trainer = Trainer(model, batches, config, out, validate=validate, progress=bar)
            if trainer.step:
                console.print(f"{out}: goes on from step {trainer.step}")
            bar(trainer.step, "compiling" if trainer.step < config.steps else "finished already")
            trainer.run()
    warn(left_out(split))
    return 0


def _validation(data: Path, config: TrainConfig, *, crowds_as_objects: bool = False) -> Validate | None:
    """The mAP on the first validation images with objects, if it is asked for and there are any."""
    if not config.validate_every:
        return None
    without = f"note: {data}: no validation during training, since"
    if not has_split(data, "val"):
        console.print(f"{without} there is no split val", markup=False)
        return None
    split, notes = with_classes_of(load_split(data, "val", crowds_as_objects=crowds_as_objects), config.model.classes)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    records = [r for r in split.records if any(not i.crowd for i in r.instances)][: config.validate_images]
    if not records:
        console.print(f"{without} no image of the split val has objects", markup=False)
        warn(left_out(split, measured=True))
        return None
    require_sizes(records)
    truths, zoom = [truth_of(record) for record in records], as_trained(config.model.image.zooms)

    def validate(model: MaskRCNN) -> dict[str, float]:
        return {"val_map": map_at_50(Predictor(model, zoom=zoom), records, truths, split.unlisted)}

    return validate
