"""The weights that `crystal predict` uses by itself: what they are, what they find, and that they can be made again."""

import jax.numpy as jnp
import pytest

from crystal.data.dataset import load_split
from crystal.drops.dataset import render_dataset
from crystal.evaluation.assessment import assess
from crystal.prediction.package_weights import CRYSTAL
from crystal.prediction.predictor import Predictor
from crystal.prediction.trained_model import load_run
from crystal.weights import train
from maskrcnn_jax import checkpoint

CLASSES = ((0, "background"), (1, "crystal"), (2, "drop"))


def test_they_know_crystals_and_drops_and_fit_into_the_package():
    assert checkpoint.load_config(CRYSTAL).classes == CLASSES
    assert sum(path.stat().st_size for path in CRYSTAL.rglob("*") if path.is_file()) < 25e6


@pytest.mark.slow
def test_they_find_drops_and_crystals_of_scenes_that_they_have_not_seen(tmp_path):
    render_dataset(tmp_path / "drops", train=0, val=12, seed=7_001)
    assessment = assess(Predictor(load_run(CRYSTAL), zoom="auto"), load_split(tmp_path / "drops", "val"))
    assert assessment.numbers["map_050_all"] > 0.5


@pytest.mark.slow
def test_their_command_makes_such_weights(tmp_path):
    train.main(tmp_path / "made", tmp_path / "work", scenes=8, plain=2, steps=1)
    assert checkpoint.load_config(tmp_path / "made").classes == CLASSES
    model = checkpoint.load(tmp_path / "made")
    kernel = model.box_head.classes.kernel[...]
    assert (kernel == kernel.astype(jnp.float16)).all()
