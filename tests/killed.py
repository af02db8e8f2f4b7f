"""A small run in a process of its own, for `test_killed.py` to kill. Importing this starts no backend, so that
processes can be forked from one that has imported it.
"""

import dataclasses
import warnings
from pathlib import Path

from crystal.data.dataset import load_split
from crystal.data.loader import training_loader
from crystal.training.config import Phase, TrainConfig
from crystal.training.run_folder import claim
from crystal.training.trainer import Trainer
from tests.small import SMALL

STEPS = 60
CONFIG = dataclasses.replace(
    TrainConfig.tiny(),
    model=SMALL,
    phases=(Phase("all", STEPS, 1e-3),),
    warmup=2,
    batch_size=2,
    slots=8,
    log_every=3,
    checkpoint_every=4,
)


def run(data: Path, out: Path, cache: str) -> None:
    """Train, or go on training."""
    import jax

    from tests.small import small_model

    jax.config.update("jax_compilation_cache_dir", cache)
    warnings.simplefilter("ignore")
    split = load_split(data, "train")
    batches = training_loader(split, size=(64, 64), batch_size=2, slots=8, mask_size=16, seed=0, clahe=False)
    claim(out, CONFIG, None)
    Trainer(small_model(), batches, CONFIG, out).run()
