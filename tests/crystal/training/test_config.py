"""Presets, stretching, and overrides that refuse what they do not know."""

import json

import pytest

from crystal.errors import CrystalError
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
        TrainConfig.tiny(),
        ["batch_size=4", "rpn.proposals.nms_iou=0.6", "model.roi.pooling.reduce=max", "train_norms=false"],
    )
    assert (config.batch_size, config.model.rpn.proposals.nms_iou, config.model.roi.pooling.reduce) == (4, 0.6, "max")
    assert config.train_norms is False
    assert override(config, ["weight_decay=0"]).weight_decay == 0.0
    assert override(config, ["image.size=(128, 128)"]).model.image.size == (128, 128)


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("rpn.proposals.nms_treshold=0.6", "nms_treshold"),
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


@pytest.mark.parametrize(
    ("assignment", "allowed"),
    [
        ("log_every=0", "log_every 0: must be at least 1"),
        ("batch_size=-2", "at least 1"),
        ("slots=-1", "at least 0"),
        ("image.zooms=(0.5, 2)", "the least zoom, from 1 on"),
        ("image.zooms=(3, 2)", "the least zoom, from 1 on"),
        ("image.zooms=2", "like"),
        ("workers=-1", "at least 0"),
        ("clip_norm=0", "above 0"),
        ("checkpoint_every=0", "at least 1"),
        ("seed=-1", "from 0 to 4294967295"),
        ("momentum=1.5", "from 0 to 1"),
        ("phases.0.learning_rate=0", "above 0"),
        ("phases.0.steps=0", "at least 1"),
        ("accumulate=0", "at least 1"),
        ("accumulate=2151", "accumulate 2151: a phase has only 2150 steps; choose at most 2150"),
        ("ema_decay=1.1", "from 0 to 1"),
        ("rpn.proposals.nms_iou=7", "from 0 to 1"),
        ("rpn.proposals.before_nms=(0, 10)", "at least 1"),
        ("image.std=(0, 1, 1)", "above 0"),
        ("image.size=[250,300]", "multiples of 64"),
        ("image.size=(0, 64)", "multiples of 64"),
        ("image.size=(64,)", "like"),
        ("image.size=(64.0, 64)", "like"),
        ("anchors.sizes=(8, 16)", "must be 5"),
        ("anchors.strides=(8, 16, 32, 64, 128)", "those of P2 to P6"),
        ("anchors.sizes=()", "like"),
        ("weight_decay=nan", "like"),
        ("weight_decay=1e999", "like"),
        ("momentum=True", "like"),
        ("phases.1.steps=3", "number of one of the 1"),
        ("phases=3", "like"),
        ("phases.0=3", "number of one of the 1"),
    ],
)
def test_what_is_out_of_range_is_refused(assignment, allowed):
    with pytest.raises(CrystalError, match=allowed):
        override(TrainConfig.tiny(), [assignment])


def test_learning_rates():
    """By the option all phases keep their ratio, by --set a single one changes."""
    config = TrainConfig.paper().with_learning_rate(2e-4)
    assert [p.learning_rate for p in config.phases] == pytest.approx([2e-4, 2e-4, 2e-5])
    config = override(TrainConfig.paper(), ["phases.2.learning_rate=5e-5", "phases.0.part=all"])
    assert [(p.part, p.learning_rate) for p in config.phases] == [("all", 1e-3), ("stage4", 1e-3), ("all", 5e-5)]
    with pytest.raises(CrystalError, match="above 0"):
        config.with_learning_rate(float("nan"))


def test_a_damaged_config_is_refused():
    values = json.loads(json.dumps(TrainConfig.tiny().to_dict()))
    values["model"]["colour"] = "blue"
    with pytest.raises(ConfigError, match="colour"):
        TrainConfig.from_dict(values)
    with pytest.raises(ConfigError, match="phases"):
        TrainConfig.from_dict({"model": TrainConfig.tiny().model.to_dict()})
    assert Phase().part == "all"
