"""The demo's own parts, and all of it once on a handful of drops."""

import json
import shutil
from collections import namedtuple

import pytest

from crystal.demo import Demo, DemoError, demo, render, table1_options
from crystal.training.comparison import ARMS, training_options
from crystal.training.options import command_line


def test_the_trainings_are_those_of_table1_and_differ_in_clahe_alone(tmp_path):
    options = table1_options(Demo(out=tmp_path))
    commands = [
        command_line(training_options(ARMS[arm], options, seed=0, out=tmp_path / "run")) for arm in ("plain", "clahe")
    ]
    words = f"--data {tmp_path}/data --out {tmp_path}/run --preset tiny --init shapes --steps 420 --seed 0"
    sets = "--set image.zooms=(1, 1) --set validate_every=84"
    assert " ".join(commands[0]) == f"{words} --no-clahe {sets}"
    assert " ".join(commands[1]) == f"{words} {sets}"
    assert table1_options(Demo(steps=2)).set == ("image.zooms=(1, 1)", "validate_every=1")


def test_drops_of_another_command_are_not_trained_on(tmp_path):
    settings = dict(train=1, val=1, seed=0, light=0.5)
    render(tmp_path / "data", **settings)
    drawn = (tmp_path / "data" / "train.json").stat().st_mtime_ns
    render(tmp_path / "data", **settings)
    assert (tmp_path / "data" / "train.json").stat().st_mtime_ns == drawn
    with pytest.raises(DemoError, match="other drops"):
        render(tmp_path / "data", **{**settings, "light": 0.9})


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(2**40, 2**40 - 2**29, 2**29)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DemoError, match="less than 1 GiB free"):
        demo(Demo(out=tmp_path / "demo"))


@pytest.mark.slow
def test_the_whole_demo_on_a_handful_of_drops(tmp_path, capsys):
    options = Demo(out=tmp_path, steps=1, train=2, val=2)
    demo(options)
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    wanted = {"map_050_10", "map_065_100", "map_050_100", "coco_segm_ap", "coco_segm_ap50", "coco_bbox_ap", "seconds"}
    for name in ("plain", "clahe"):
        run = tmp_path / "table1" / "runs" / f"0-{name}"
        assert wanted <= set(numbers[name])
        assert numbers[name]["steps"] == 1
        assert (run / "checkpoints" / "1" / "model").is_dir()
        assert json.loads((run / "config.json").read_text())["train"]["model"]["image"]["clahe"] is (name == "clahe")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "CLAHE: with minus without" in said
    for row in ("IoU 0.50, 10 images", "IoU 0.65, 100 images", "IoU 0.50, 100 images"):
        assert row in said
    assert "0.668" in said  # the paper's figure beside ours
    demo(options)  # nothing is done again
    assert json.loads((tmp_path / "metrics.json").read_text()) == numbers
