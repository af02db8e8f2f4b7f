"""The demo's own parts, and all of it once on a handful of drops."""

import json

import pytest

from crystal import demo
from crystal.demo import DemoError


def test_the_two_commands_differ_in_clahe_and_folder_only(tmp_path):
    plain, clahe = (demo._training(tmp_path, name, steps=10, seed=4).command for name in ("plain", "clahe"))
    differing = [(a, b) for a, b in zip(plain, clahe, strict=True) if a != b]
    assert differing == [(str(tmp_path / "plain"), str(tmp_path / "clahe")), ("--no-clahe", "--clahe")]


def test_drops_of_another_command_are_not_trained_on(tmp_path):
    settings = dict(train=1, val=1, seed=0, light=0.5)
    demo.render(tmp_path / "data", **settings)
    drawn = (tmp_path / "data" / "train.json").stat().st_mtime_ns
    demo.render(tmp_path / "data", **settings)
    assert (tmp_path / "data" / "train.json").stat().st_mtime_ns == drawn
    with pytest.raises(DemoError, match="other drops"):
        demo.render(tmp_path / "data", **{**settings, "light": 0.9})


@pytest.mark.slow
def test_the_whole_demo_on_a_handful_of_drops(tmp_path, capsys):
    demo.demo(tmp_path, steps=1, train=2, val=2, seed=0, light=0.5)
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    wanted = {
        "map_050_10",
        "map_065_100",
        "map_050_100",
        "coco_segm_ap",
        "coco_segm_ap50",
        "coco_bbox_ap",
        "steps",
        "seconds",
    }
    for name in ("plain", "clahe"):
        assert wanted <= set(numbers[name])
        assert numbers[name]["steps"] == 1
        assert (tmp_path / name / "checkpoints" / "1" / "model").is_dir()
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["train"]["clahe"] is False
    assert (tmp_path / "report.html").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "with CLAHE" in said
    assert "0.668" in said  # the paper's figure beside ours
