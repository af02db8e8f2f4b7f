"""The experiment: its arms differ in one thing, what is done is not done again, and its files hold its figures."""

import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from crystal import cli
from crystal.data.dataset import load_split
from crystal.data.loader import training_loader
from crystal.pages.table1 import table1_command
from crystal.prediction.trained_model import load_run
from crystal.training import comparison, config
from crystal.training.comparison import ARMS, Table1Error, claim_experiment, command, training_options
from crystal.training.config import Phase
from crystal.training.options import Table1
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import SMALL, small_model
from tests.small_run import CONFIG

OPTIONS = Table1(Path("my drops"), Path("out"), seeds=4, init="shapes", steps=7, set=("image.size=(64, 64)",))
SETTINGS = {"data": "drops", "content": {"train": "a", "val": "b"}, "preset": "tiny", "init": "shapes", "steps": 7}


def test_the_arms_differ_in_one_thing_each():
    plain, clahe, scratch = (training_options(ARMS[arm], OPTIONS, seed=4, out=Path("run")) for arm in ARMS)
    assert dataclasses.replace(plain, clahe=True) == clahe
    assert dataclasses.replace(clahe, init="none") == scratch
    assert (plain.clahe, clahe.init) == (False, "shapes")


def test_the_command_is_one_that_crystal_takes(monkeypatch):
    """Read back by the command line, it asks for the same experiment."""
    asked = []
    monkeypatch.setattr(cli, "run", lambda options: asked.append(options) or 0)
    options = dataclasses.replace(OPTIONS, scratch=True, crowds_as_objects=True)
    monkeypatch.setattr(sys, "argv", shlex.split(command(options)))
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert asked == [options]


def test_both_arms_see_the_same_images_in_the_same_order(data):
    split = load_split(data, "train")
    with_and_without = [
        training_loader(split, size=(64, 64), batch_size=2, slots=40, mask_size=16, seed=5, clahe=clahe)
        for clahe in (False, True)
    ]
    for _ in range(4):
        plain, clahe = (next(batches) for batches in with_and_without)
        assert (plain.images != clahe.images).any()
        for field in ("boxes", "masks", "valid", "crowd", "windows"):
            np.testing.assert_array_equal(getattr(plain, field), getattr(clahe, field))
    for batches in with_and_without:
        batches.close()


def test_a_folder_of_another_experiment_is_refused(tmp_path):
    claim_experiment(tmp_path / "out", SETTINGS)
    claim_experiment(tmp_path / "out", SETTINGS | {"data": "the same drops, moved"})
    with pytest.raises(Table1Error, match=r"other settings \(content, steps\)"):
        claim_experiment(tmp_path / "out", SETTINGS | {"steps": 8, "content": {}})
    (tmp_path / "out" / "experiment.json").write_text("{")
    with pytest.raises(Table1Error, match="is damaged"):
        claim_experiment(tmp_path / "out", SETTINGS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(Table1Error, match="no experiment of table1"):
        claim_experiment(tmp_path / "full", SETTINGS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, 3, seed=2)
    shutil.copytree(folder / "train", folder / "val")
    shutil.copy(folder / "train.json", folder / "val.json")
    return folder


def test_what_makes_no_experiment_is_refused(data, tmp_path):
    with pytest.raises(Table1Error, match="--scratch"):
        table1_command(dataclasses.replace(OPTIONS, data=data, out=tmp_path / "out", init="none", scratch=True))
    assert not (tmp_path / "out").exists()


def test_the_whole_experiment_and_again(data, tmp_path, monkeypatch, capsys):
    """Its trainings run in this process, by their own command lines: the second finds the program of the first."""

    def in_this_process(trainings, **options):
        for training in trainings:
            monkeypatch.setattr(sys, "argv", ["crystal", *training.command[3:]])
            with pytest.raises(SystemExit, match="0"):
                cli.main()
            yield training, 1.5

    monkeypatch.setattr(comparison, "train_in_parallel", in_this_process)
    preset = dataclasses.replace(CONFIG, phases=(Phase("stage4", 1, CONFIG.phases[1].learning_rate),))
    monkeypatch.setitem(config.PRESETS, "tiny", lambda: preset)
    checkpoint.save(small_model(7), tmp_path / "weights")
    out = tmp_path / "out"
    options = Table1(data, out, seeds=1, init=str(tmp_path / "weights"), steps=1, set=("detection.nms_iou=0.6",))
    table1_command(options)
    plain, clahe = (json.loads((out / "runs" / f"0-{arm}" / "config.json").read_text()) for arm in ("plain", "clahe"))
    assert [run["train"]["model"]["image"].pop("clahe") for run in (plain, clahe)] == [False, True]
    assert (plain["train"], plain["init"]) == (clahe["train"], clahe["init"])
    for arm in ("plain", "clahe"):
        model = load_run(out / "runs" / f"0-{arm}")
        assert (model.config.fpn_channels, model.config.detection.nms_iou) == (SMALL.fpn_channels, 0.6)
        assert model.config.classes == ((0, "background"), (1, "shape"))
        assert model.config.image.clahe is (arm == "clahe")
    results = json.loads((out / "table1.json").read_text())
    assert results["settings"]["steps"] == 1
    assert results["machine"]["versions"]["jax"]
    images = len(load_split(data, "val").records)
    for arm in ("plain", "clahe"):
        numbers = json.loads((out / "runs" / f"0-{arm}" / "evaluation.json").read_text())["numbers"]
        for key in ("map_050_10", "map_065_100", "map_050_all"):  # by this module's way, and by crystal evaluate's
            assert results["measures"][key]["arms"][arm]["mean"] == pytest.approx(numbers[key], abs=1e-4)
        assert len(results["ap"][arm][0]["0.50"]) == images
    assert "0.668" in (out / "table1.md").read_text()
    assert "IoU 0.65, 100 images" in capsys.readouterr().out

    def nothing_to_train(trainings, **options):
        assert trainings == []
        yield from ()

    monkeypatch.setattr(comparison, "train_in_parallel", nothing_to_train)
    (out / "runs" / "0-clahe" / "evaluation.json").unlink()
    measured = (out / "runs" / "0-plain" / "evaluation.json").stat().st_mtime_ns
    table1_command(options)
    again = json.loads((out / "table1.json").read_text())
    assert again["measures"] == results["measures"]
    assert (out / "runs" / "0-plain" / "evaluation.json").stat().st_mtime_ns == measured

    monkeypatch.setattr(comparison, "commit", lambda: "other")  # scores may have changed since
    table1_command(options)
    assert (out / "runs" / "0-plain" / "evaluation.json").stat().st_mtime_ns != measured
    with pytest.raises(Table1Error, match="set"):
        table1_command(dataclasses.replace(options, set=("batch_size=3",)))
