"""From the command's options to the settings of a run."""

import pytest

from crystal.data.dataset import load_split
from crystal.training.options import Train
from crystal.training.starting_weights import starting_model
from crystal.training.train import resolve, train_command
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import SMALL, small_model


def test_init_takes_the_architecture_from_the_weights(tmp_path):
    write_scenes(tmp_path / "data", 1, seed=1)
    checkpoint.save(small_model(7), tmp_path / "weights")
    options = Train(tmp_path / "data", tmp_path / "run", init=str(tmp_path / "weights"), steps=2)
    options.set = ("batch_size=2", "rpn.nms_iou=0.6")
    config = resolve(load_split(options.data, "train"), options)
    model, _ = starting_model(config, options.init)
    for architecture in (config.model, model.config):
        assert architecture.fpn_channels == SMALL.fpn_channels
        assert architecture.rpn.nms_iou == 0.6
        assert architecture.classes == ((0, "background"), (1, "shape"))
    options.set = ("fpn_channels=16",)
    with pytest.raises(checkpoint.CheckpointError, match="fpn"):
        train_command(options)
    assert not (tmp_path / "run").exists()
