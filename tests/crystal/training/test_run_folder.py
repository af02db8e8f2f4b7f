"""A run folder is claimed once: with other settings, weights or data it is refused."""

import dataclasses
import json

import pytest

from crystal.errors import RunError
from crystal.training.config import TrainConfig
from crystal.training.run_folder import claim

CONFIG = TrainConfig.tiny()


def test_a_folder_of_another_run_is_refused(tmp_path):
    for _ in range(2):
        claim(tmp_path, CONFIG, None, {"train": "abc"})
    claim(tmp_path, CONFIG, None, resume=True)
    with pytest.raises(RunError, match=r"train\.batch_size"):
        claim(tmp_path, dataclasses.replace(CONFIG, batch_size=3), None)
    with pytest.raises(RunError, match="init"):
        claim(tmp_path, CONFIG, "elsewhere")
    with pytest.raises(RunError, match=r"data\.train"):
        claim(tmp_path, CONFIG, None, {"train": "abd"})


def test_only_going_on(tmp_path):
    with pytest.raises(RunError, match="no run to go on with"):
        claim(tmp_path / "none", CONFIG, None, resume=True)
    assert not (tmp_path / "none").exists()


def test_a_run_of_version_0_1_goes_on(tmp_path):
    """It had CLAHE beside the model's settings."""
    claim(tmp_path, CONFIG, None)
    settings = json.loads((tmp_path / "config.json").read_text())
    for clahe in (True, False):
        settings["train"]["clahe"] = clahe
        settings["train"]["model"]["image"].pop("clahe", None)
        (tmp_path / "config.json").write_text(json.dumps(settings))
        model = dataclasses.replace(CONFIG.model, image=dataclasses.replace(CONFIG.model.image, clahe=clahe))
        claim(tmp_path, dataclasses.replace(CONFIG, model=model), None)
        model = dataclasses.replace(CONFIG.model, image=dataclasses.replace(CONFIG.model.image, clahe=not clahe))
        with pytest.raises(RunError, match=r"train\.model\.image\.clahe"):
            claim(tmp_path, dataclasses.replace(CONFIG, model=model), None)
