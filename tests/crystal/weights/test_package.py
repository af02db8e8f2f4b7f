"""The weights that `crystal predict` uses by itself: what they are, what they find, and that they can be made again."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

from crystal.drops.dataset import render_dataset
from crystal.prediction.package_weights import CRYSTAL
from crystal.weights import train
from maskrcnn_jax import checkpoint

CLASSES = ((0, "background"), (1, "crystal"), (2, "drop"))


def test_they_know_crystals_and_drops_and_fit_into_the_package():
    assert checkpoint.load_config(CRYSTAL).classes == CLASSES
    assert sum(path.stat().st_size for path in CRYSTAL.rglob("*") if path.is_file()) < 25e6


@pytest.mark.slow
def test_they_find_drops_and_crystals_of_scenes_that_they_have_not_seen(tmp_path):
    drops, out = tmp_path / "drops", tmp_path / "metrics.json"
    render_dataset(drops, train=0, val=12, seed=7_001)
    words = [sys.executable, "-m", "crystal", "evaluate", "--data", str(drops), "--out", str(out)]
    subprocess.run(words, check=True, env=os.environ | {"XLA_FLAGS": ""})  # hundreds of views: optimised code pays
    assert json.loads(out.read_text())["map_050_all"] > 0.5


@pytest.mark.slow
def test_their_command_makes_such_weights(tmp_path):
    train.main(tmp_path / "made", tmp_path / "work", scenes=8, plain=2, dense=2, steps=1)
    assert checkpoint.load_config(tmp_path / "made").classes == CLASSES
    model = checkpoint.load(tmp_path / "made")
    kernel = model.box_head.classes.kernel[...]
    assert (kernel == kernel.astype(jnp.float16)).all()
