"""A small training run. Importing this starts no backend, so that processes can be forked from one that has."""

import dataclasses
import os
import warnings
from pathlib import Path

import jax

from crystal.data.dataset import load_split
from crystal.data.loader import training_loader
from crystal.prediction.compilation_cache import use_compilation_cache
from crystal.training.config import Phase, TrainConfig
from crystal.training.run_folder import claim
from crystal.training.trainer import Trainer
from tests.small import SMALL, small_model

# A constant rate, so that runs of any length share their compiled steps.
CONFIG = dataclasses.replace(
    TrainConfig.paper(),
    model=SMALL,
    phases=(Phase("heads", 3, 1e-2), Phase("stage4", 5, 1e-2)),
    warmup=1,
    slots=8,
    log_every=3,
    checkpoint_every=2,
    validate_every=0,
)


def small_trainer(data: Path, out: Path, config: TrainConfig = CONFIG, **options) -> Trainer:
    """A run in `out`, or one that goes on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # images with more objects than slots
        batches = training_loader(
            load_split(data, "train"), size=(64, 64), batch_size=2, slots=config.slots, seed=0, clahe=False
        )
    claim(out, config, None)
    return Trainer(small_model(), batches, config, out, **options)


def train(data: Path, out: Path, config: TrainConfig, programs: Path) -> None:
    """A whole run for a process of its own, with JAX's cache of compiled programs as `crystal train` sets it."""
    jax.config.update("jax_compilation_cache_dir", None)
    os.environ["XDG_CACHE_HOME"] = str(programs)
    use_compilation_cache()
    small_trainer(data, out, config).run()
