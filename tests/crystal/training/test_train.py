"""From the command's options to the settings of a run."""

import dataclasses

import pytest

from crystal.data.dataset import load_split
from crystal.training.options import Train
from crystal.training.starting_weights import starting_model
from crystal.training.train import _validation, resolve, train_command
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import SMALL, small_model
from tests.small_run import CONFIG


def test_init_takes_the_architecture_from_the_weights(tmp_path):
    write_scenes(tmp_path / "data", 1, seed=1)
    checkpoint.save(small_model(7), tmp_path / "weights")
    options = Train(tmp_path / "data", tmp_path / "run", init=str(tmp_path / "weights"), steps=2)
    options.set = ("batch_size=2", "rpn.proposals.nms_iou=0.6")
    config = resolve(load_split(options.data, "train"), options)
    model, _ = starting_model(config, tmp_path / "weights")
    for architecture in (config.model, model.config):
        assert architecture.fpn_channels == SMALL.fpn_channels
        assert architecture.rpn.proposals.nms_iou == 0.6
        assert architecture.classes == ((0, "background"), (1, "shape"))
        assert architecture.image.clahe is True  # the run's own, whatever the weights were trained on
        assert architecture.kernels == "cpu"  # crystal's choice
    plain = dataclasses.replace(options, clahe=False)
    image = resolve(load_split(options.data, "train"), plain).model.image
    assert dataclasses.replace(image, zooms=None) == SMALL.image
    plain.set = ("kernels=xla",)
    assert resolve(load_split(options.data, "train"), plain).model.kernels == "xla"
    options.set = ("fpn_channels=16",)
    with pytest.raises(checkpoint.CheckpointError, match="fpn"):
        train_command(options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["val.json", "annotations/instances_val2017.json", "valid/_annotations.coco.json"])
def test_validation_is_found_where_other_programs_put_it(tmp_path, capsys, place):
    write_scenes(tmp_path, 2, seed=1)
    written = load_split(tmp_path, "train")
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(SMALL, classes=written.categories), validate_every=1)
    assert _validation(tmp_path, config) is None
    assert "no validation during training, since there is no split val" in capsys.readouterr().out
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(written.source.read_bytes())
    for record in written.records:
        name = f"{'val2017' if 'instances' in place else place.split('/')[0].removesuffix('.json')}/{record.file_name}"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(record.path.read_bytes())
    assert _validation(tmp_path, config) is not None
    assert capsys.readouterr().out == ""
    assert _validation(tmp_path, dataclasses.replace(config, validate_every=0)) is None
    assert capsys.readouterr().out == ""
