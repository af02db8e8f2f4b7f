"""Where the weights of a run come from, and what is kept of them."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from crystal.prediction import package_weights
from crystal.training.config import TrainConfig, override
from crystal.training.options import Train, start_of
from crystal.training.starting_weights import starting_config, starting_model, starting_weights
from maskrcnn_jax import checkpoint, convert
from maskrcnn_jax.checkpoint import CheckpointError
from maskrcnn_jax.config import MaskRCNNConfig
from tests.small import SMALL, small_batch, small_model
from tests.weight_files import pytorch_weight, torchvision_layout, write_zip

CRYSTAL = ((0, "background"), (1, "crystal"))


def parameters(model):
    return {name: np.asarray(p) for name, p in checkpoint.named_parameters(model).items()}


def test_random_weights_follow_the_seed():
    config = dataclasses.replace(TrainConfig.tiny(), model=SMALL, seed=3)
    first, note = starting_model(config, None)
    assert note == "weights: random"
    for ours, theirs in zip(
        jax.tree.leaves(nnx.state(first)), jax.tree.leaves(nnx.state(starting_model(config, None)[0])), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    path = tmp_path_factory.mktemp("coco") / "weights.pth"
    write_zip(path, {name: pytorch_weight(name, shape) for name, shape in torchvision_layout(50).items()})
    return path


def test_a_file_of_coco_weights_as_it_was_published(coco):
    """Architecture and conventions are the file's, classes the dataset's; only what depends on them starts anew."""
    assert starting_config(coco) == MaskRCNNConfig.torchvision_coco(50)
    model_config = dataclasses.replace(starting_config(coco), classes=CRYSTAL)
    config = override(dataclasses.replace(TrainConfig.paper(), model=model_config), ["detection.nms_iou=0.4"])
    model, note = starting_model(config, coco)
    assert model.config == config.model
    assert model.config.detection.nms_iou == 0.4
    assert str(coco) in note
    assert "91 -> 2" in note
    ours, theirs = parameters(model), parameters(convert.load(coco))
    fresh = {
        f"{layer}.{part}"
        for layer in ("box_head.classes", "box_head.deltas", "mask_head.masks")
        for part in ("kernel", "bias")
    }
    assert set(ours) == set(theirs)
    for name in set(ours) - fresh:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert ours["box_head.classes.kernel"].shape == (1024, 2)


def test_a_change_of_shapes_is_refused(coco):
    changed = dataclasses.replace(MaskRCNNConfig.torchvision_coco(50), fpn_channels=128)
    with pytest.raises(
        CheckpointError, match=r"weights\.pth belongs to another config: with model\.fpn_channels changed"
    ):
        starting_model(dataclasses.replace(TrainConfig.paper(), model=changed), coco)


def test_a_set_that_changes_a_shape_is_refused_in_a_sentence(tmp_path):
    """And one that does not, is not."""
    checkpoint.save(small_model(4), tmp_path / "weights")
    start = dataclasses.replace(TrainConfig.tiny(), model=SMALL)
    with pytest.raises(CheckpointError) as refused:
        starting_model(override(start, ["roi.box_head.hidden=24", "rpn.proposals.nms_iou=0.5"]), tmp_path / "weights")
    text = str(refused.value)
    assert "\n" not in text
    assert "model.roi.box_head.hidden" in text
    assert "box_head.classes.kernel: (16, 2) in the file, (24, 2) in the config" in text
    assert "leave that --set out" in text
    model, _ = starting_model(
        override(start, ["rpn.proposals.nms_iou=0.5", "compute_dtype=bfloat16"]), tmp_path / "weights"
    )
    assert model.config.compute_dtype == "bfloat16"


def test_a_checkpoint_folder(tmp_path):
    checkpoint.save(small_model(4), tmp_path / "weights")
    assert starting_config(tmp_path / "weights") == SMALL
    model, note = starting_model(dataclasses.replace(TrainConfig.tiny(), model=SMALL), tmp_path / "weights")
    assert "all weights kept" in note
    for ours, theirs in zip(*(parameters(m).values() for m in (model, small_model(4))), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_not_there_or_no_weights(tmp_path):
    (tmp_path / "notes.txt").write_text("no weights")
    for init, message in (("notes.txt", "neither HDF5 nor"), ("nowhere", "no such folder")):
        with pytest.raises(CheckpointError, match=message):
            starting_config(tmp_path / init)


def test_what_a_preset_starts_from(tmp_path):
    """tiny and small from the package's weights, the paper's from random ones, unless something else is named."""
    found = [starting_weights(start_of(Train(tmp_path, tmp_path, preset=p))) for p in ("tiny", "small", "paper")]
    assert found == [package_weights.CRYSTAL, package_weights.CRYSTAL, None]
    assert starting_weights(start_of(Train(tmp_path, tmp_path, init="none"))) is None
    assert starting_weights(start_of(Train(tmp_path, tmp_path, init="runs/0"))) == Path("runs/0")


@pytest.mark.parametrize("kind", [{}, {"norm": "affine"}, {"norm": "affine", "block": "bottleneck"}])
def test_more_blocks_than_the_weights_have_are_identities(tmp_path, kind):
    """So that `small` starts as the network that the weights of `tiny` are."""
    shallow = dataclasses.replace(SMALL, backbone=dataclasses.replace(SMALL.backbone, **kind))
    deeper = dataclasses.replace(SMALL, backbone=dataclasses.replace(shallow.backbone, depths=(2, 1, 3, 1)))
    before = small_model(4, config=shallow)
    checkpoint.save(before, tmp_path / "weights")
    start = dataclasses.replace(TrainConfig.tiny(), model=deeper)
    model, note = starting_model(start, tmp_path / "weights")
    assert "all weights kept" in note
    assert model.config.backbone.depths == (2, 1, 3, 1)
    images = small_batch()[0]
    found, expected = (jax.jit(lambda m, x: m.stages(x).objectness)(m, images) for m in (model, before))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    shallow = dataclasses.replace(SMALL, fpn_channels=16, backbone=deeper.backbone)
    with pytest.raises(CheckpointError, match=r"with model\.backbone\.depths, model\.fpn_channels changed"):
        starting_model(dataclasses.replace(start, model=shallow), tmp_path / "weights")
