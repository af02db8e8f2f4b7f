"""The experiment: its arms differ in one thing, what is done is not done again, and its files hold its figures."""

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
from crystal.prediction.trained_model import load_run
from crystal.training import comparison as table1
from crystal.training.comparison import ARMS, Table1Error, arguments, claim_experiment
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import SMALL, small_model

SETTINGS = {"data": "drops", "content": {"train": "a", "val": "b"}, "preset": "tiny", "init": "shapes"}
SETTINGS |= {"steps": 7, "set": ["batch_size=2"]}


def test_the_arms_differ_in_one_thing_each():
    plain, clahe, scratch = (arguments(ARMS[arm], SETTINGS, seed=4) for arm in ("plain", "clahe", "scratch"))
    assert [pair for pair in zip(plain, clahe, strict=True) if len(set(pair)) > 1] == [("--no-clahe", "--clahe")]
    at = clahe.index("--init")
    assert clahe[:at] + clahe[at + 2 :] == scratch
    assert clahe[at + 1] == "shapes"


def test_the_command_is_one_that_crystal_takes(tmp_path, monkeypatch):
    """Read back by the command line, it asks for the same experiment."""
    asked = []
    monkeypatch.setattr(table1, "table1", lambda *places, **options: asked.append((*places, options)))
    settings = SETTINGS | {"data": "my drops", "set": ["image.size=(64, 64)"]}
    monkeypatch.setattr(sys, "argv", shlex.split(table1.command(settings, tmp_path, seeds=4, scratch=True)))
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    options = {"seeds": 4, "preset": "tiny", "init": "shapes", "steps": 7, "scratch": True, "at_once": 2}
    assert asked == [(Path("my drops"), tmp_path, options | {"assignments": ("image.size=(64, 64)",)})]


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


@pytest.mark.parametrize(
    ("options", "said"),
    [({"seeds": 0}, "--seeds 0"), ({"at_once": 0}, "--at-once 0"), ({"scratch": True}, "--scratch")],
)
def test_what_makes_no_experiment_is_refused(data, tmp_path, options, said):
    settings = dict(seeds=1, preset="tiny", init=None, steps=1, assignments=[], scratch=False, at_once=1)
    with pytest.raises(Table1Error, match=said):
        table1.table1(data, tmp_path / "out", **(settings | options))
    assert not (tmp_path / "out").exists()


def test_the_whole_experiment_and_again(data, tmp_path, monkeypatch, capsys):
    """Its trainings run in this process, by their own command lines: the second finds the program of the first."""

    def in_this_process(trainings, **options):
        for training in trainings:
            monkeypatch.setattr(sys, "argv", ["crystal", *training.command[3:]])
            with pytest.raises(SystemExit, match="0"):
                cli.main()
            yield training, 1.5

    monkeypatch.setattr(table1, "train_side_by_side", in_this_process)
    checkpoint.save(small_model(7), tmp_path / "weights")
    options = dict(
        seeds=1, preset="tiny", init=str(tmp_path / "weights"), steps=1, scratch=False, at_once=2,
        assignments=["batch_size=2", "slots=8", "rpn.nms_iou=0.6"],
    )  # fmt: skip
    out = tmp_path / "out"
    table1.table1(data, out, **options)
    plain, clahe = (json.loads((out / "runs" / f"0-{arm}" / "config.json").read_text()) for arm in ("plain", "clahe"))
    assert (plain["train"].pop("clahe"), clahe["train"].pop("clahe")) == (False, True)
    assert (plain["train"], plain["init"]) == (clahe["train"], clahe["init"])
    for arm in ("plain", "clahe"):
        model, with_clahe = load_run(out / "runs" / f"0-{arm}")
        assert (model.config.fpn_channels, model.config.rpn.nms_iou) == (SMALL.fpn_channels, 0.6)
        assert model.config.classes == ((0, "background"), (1, "shape"))
        assert with_clahe is (arm == "clahe")
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

    monkeypatch.setattr(table1, "train_side_by_side", nothing_to_train)
    (out / "runs" / "0-clahe" / "evaluation.json").unlink()
    kept = (out / "runs" / "0-plain" / "evaluation.json").stat().st_mtime_ns
    table1.table1(data, out, **options)
    again = json.loads((out / "table1.json").read_text())
    assert again["measures"] == results["measures"]
    assert (out / "runs" / "0-plain" / "evaluation.json").stat().st_mtime_ns == kept
    with pytest.raises(Table1Error, match="set"):
        table1.table1(data, out, **(options | {"assignments": ["batch_size=3"]}))
