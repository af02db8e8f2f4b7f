"""Presets, stretching, and overrides that refuse what they do not know."""

import json

import pytest

from crystal.training.config import PRESETS, ConfigError, Phase, TrainConfig, override


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json(preset):
    config = PRESETS[preset]()
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_steps_keep_the_shares_of_the_phases():
    config = TrainConfig.paper().with_steps(8)
    assert [p.steps for p in config.phases] == [2, 4, 2]
    assert config.steps == 8
    assert TrainConfig.paper().with_steps(1).steps == 1
    with pytest.raises(ConfigError, match="at least one"):
        config.with_steps(0)


def test_overrides_reach_the_run_and_the_model():
    config = override(
        TrainConfig.tiny(), ["batch_size=4", "rpn.nms_iou=0.6", "model.roi.reduce=max", "train_norms=false"]
    )
    assert (config.batch_size, config.model.rpn.nms_iou, config.model.roi.reduce) == (4, 0.6, "max")
    assert config.train_norms is False
    assert override(config, ["weight_decay=0"]).weight_decay == 0.0
    assert override(config, ["image.size=(128, 128)"]).model.image.size == (128, 128)


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("rpn.nms_treshold=0.6", "nms_treshold"),
        ("batch_size=many", "batch_size"),
        ("batch_size=2.5", "batch_size"),
        ("batch_size", "key=value"),
        ("rpn=3", "rpn"),
        ("batch_size.deep=3", "below"),
        ("clahe=3", "clahe"),
        ("compute_dtype=float16", "float32, bfloat16"),
        ("optimizer=adam", "sgd, adamw"),
    ],
)
def test_what_is_unknown_or_of_another_type_is_refused(assignment, named):
    with pytest.raises(ConfigError, match=named):
        override(TrainConfig.tiny(), [assignment])


def test_a_damaged_config_is_refused():
    values = json.loads(json.dumps(TrainConfig.tiny().to_dict()))
    values["model"]["colour"] = "blue"
    with pytest.raises(ConfigError, match="colour"):
        TrainConfig.from_dict(values)
    with pytest.raises(ConfigError, match="phases"):
        TrainConfig.from_dict({"model": TrainConfig.tiny().model.to_dict()})
    assert Phase().part == "all"
