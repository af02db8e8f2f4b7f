"""A checkpoint says itself how its images are prepared, wherever it lies and however it is named."""

import dataclasses
import json
import shutil

import pytest

from crystal.errors import RunError
from crystal.prediction.trained_model import load_run
from maskrcnn_jax import checkpoint
from tests.small import SMALL, small_model


def write_run(folder, *, clahe):
    """A run folder with a best one inside it, as training leaves them."""
    config = dataclasses.replace(SMALL, image=dataclasses.replace(SMALL.image, clahe=clahe))
    checkpoint.save(small_model(config=config), folder / "checkpoints" / "420")
    shutil.copytree(folder / "checkpoints", folder / "best" / "checkpoints")
    return folder


def names(run):
    return (run, run / "best", run / "checkpoints" / "420", run / "best" / "checkpoints" / "420")


@pytest.mark.parametrize("clahe", [True, False])
def test_every_name_of_a_run_gives_the_same_preparation(tmp_path, clahe):
    """Also without config.json, with a damaged one, and from a copy of the checkpoint elsewhere."""
    run = write_run(tmp_path / "run", clahe=clahe)
    shutil.copytree(run / "checkpoints" / "420", tmp_path / "copy")
    for damaged in (False, True):
        if damaged:
            (run / "config.json").write_text("{")
        for name in (*names(run), tmp_path / "copy"):
            assert load_run(name).config.image.clahe is clahe, name
    assert (checkpoint.load_config(run).kernels, load_run(run).config.kernels) == ("xla", "cpu")


@pytest.mark.parametrize("clahe", [True, False])
def test_runs_of_version_0_1_have_it_in_config_json(tmp_path, clahe):
    run = write_run(tmp_path / "run", clahe=False)
    for path in run.rglob("config/metadata"):
        config = json.loads(path.read_text())
        del config["image"]["clahe"]
        path.write_text(json.dumps(config))
    for name in names(run):
        assert load_run(name).config.image.clahe is False, name  # nothing says otherwise
    for folder in (run, run / "best"):
        (folder / "config.json").write_text(json.dumps({"train": {"clahe": clahe}}))
    (tmp_path / "link").symlink_to(run / "checkpoints" / "420")
    for name in (*names(run), tmp_path / "link"):
        assert load_run(name).config.image.clahe is clahe, name
    (run / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        load_run(run)
