"""A model comes back as it was, and what is not one is refused in a sentence."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax import checkpoint
from tests.small import SMALL, small_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small"
    model = small_model(3)
    checkpoint.save(model, path)
    return path, model


def leaves(model):
    return jax.tree.leaves(nnx.state(model))


def test_round_trip_is_exact(saved):
    path, model = saved
    again = checkpoint.load(path)
    assert again.config == model.config
    for ours, theirs in zip(leaves(again), leaves(model), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


def test_shapes_are_those_of_the_parameters_and_models_of_one_config_share_none():
    models = [small_model(3), small_model(4)]
    shapes = {name: (array.shape, array.dtype) for name, array in checkpoint.named_parameters(models[0]).items()}
    assert {name: (s.shape, s.dtype) for name, s in checkpoint.named_shapes(SMALL).items()} == shapes
    built = [checkpoint.build(SMALL, checkpoint.named_parameters(model), name="here") for model in models]
    for ours, model in zip(built, models, strict=True):
        for a, b in zip(leaves(ours), leaves(model), strict=True):
            np.testing.assert_array_equal(a, b)


def test_half_precision_is_rounded_once_and_comes_back_as_float32(saved, tmp_path):
    _, model = saved
    checkpoint.save(model, tmp_path / "half", dtype=jnp.float16)
    for ours, theirs in zip(leaves(checkpoint.load(tmp_path / "half")), leaves(model), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(np.float16).astype(np.float32))


def test_settings_may_change_but_not_shapes(saved):
    path, _ = saved
    looser = dataclasses.replace(SMALL, detection=dataclasses.replace(SMALL.detection, nms_iou=0.9))
    assert checkpoint.load(path, config=looser).config.detection.nms_iou == 0.9
    wider = dataclasses.replace(SMALL, fpn_channels=16)
    with pytest.raises(checkpoint.CheckpointError, match=r"fpn\.laterals.*kernel") as raised:
        checkpoint.load(path, config=wider)
    assert "box_head.first.kernel" in str(raised.value)  # all that differs, not only the first


def test_nothing_is_overwritten(saved):
    path, model = saved
    with pytest.raises(checkpoint.CheckpointError, match="exists already"):
        checkpoint.save(model, path)


@pytest.mark.parametrize("make", ["missing", "empty", "damaged", "config"])
def test_what_is_no_checkpoint_is_refused(saved, tmp_path, make):
    import shutil

    path = tmp_path / "weights"
    if make == "empty":
        path.mkdir()
    elif make in ("damaged", "config"):
        shutil.copytree(saved[0], path)
        if make == "config":
            (path / "config" / "metadata").write_text("{")
        else:
            for part in (path / "model").rglob("*"):
                if part.is_file():
                    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(checkpoint.CheckpointError, match=r"weights"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("Unable to initialize backend 'cuda'"), PermissionError(13, "Permission denied", "d")],
)
def test_errors_of_the_system_and_of_the_device_are_not_called_damage(saved, monkeypatch, error):
    def fail(path):
        raise error

    monkeypatch.setattr(checkpoint, "_read_arrays", fail)
    with pytest.raises(type(error)) as raised:
        checkpoint.load(saved[0])
    assert raised.value is error


@pytest.mark.parametrize("error", [ValueError("cut short"), KeyError("x"), Exception("RESOURCE")])
def test_what_orbax_says_of_files_is_damage(saved, monkeypatch, error):
    def fail(path):
        raise error

    monkeypatch.setattr(checkpoint, "_read_arrays", fail)
    with pytest.raises(checkpoint.CheckpointError, match="damaged or incomplete"):
        checkpoint.load(saved[0])


def test_files_that_may_not_be_read(saved, monkeypatch):
    opened = Path.open

    def refuse(path, *mode, **more):
        if path.parent.name == "d":  # TensorStore's files
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *mode, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        checkpoint.load(saved[0])


def test_a_run_folder_without_a_finished_checkpoint_says_so(tmp_path):
    (tmp_path / "checkpoints" / "10.tmp").mkdir(parents=True)
    with pytest.raises(checkpoint.CheckpointError, match="train first"):
        checkpoint.load(tmp_path)
