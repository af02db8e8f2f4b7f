"""The training loop: what a run writes, how it stops and goes on, and what ends it."""

import dataclasses
import json
import os
import shutil
import signal
import struct
from collections import defaultdict

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from tensorboardX.proto.event_pb2 import Event

from crystal.errors import RunError
from crystal.prediction.trained_model import load_run
from crystal.training.best import Best
from crystal.training.log import read_metrics
from crystal.training.trainer import Interrupted
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import small_model
from tests.small_run import CONFIG, small_trainer

# An average of the weights and updates from two steps each: a step that stops between two has both to save. The plain
# run is stopped and resumed in test_killed.py.
AVERAGED = dataclasses.replace(CONFIG, ema_decay=0.9, accumulate=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, 6, seed=1)
    return folder


class Watched:
    """Batches that call a function with the number of steps made before they give the next one."""

    def __init__(self, batches, call):
        self._batches, self._call = batches, call

    def __next__(self):
        self._call(self._batches.get_state()["batches"])
        return next(self._batches)

    def __getattr__(self, name):
        return getattr(self._batches, name)


def weights(model):
    return [np.asarray(p) for p in jax.tree.leaves(nnx.state(model))]


def assert_same_weights(a, b):
    for ours, theirs in zip(weights(a), weights(b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def curves(out):
    """{name: {step: value}} as a reader of TensorBoard's files finds it."""
    found = defaultdict(dict)
    for path in (out / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            for value in event.summary.value:
                found[value.tag][event.step] = value.simple_value
            data = data[16 + size :]
    return found


def losses(out):
    """The log without validation and without what depends on the machine."""
    machine = ("images_per_second", "input_wait_share", "memory_mb")
    return [{k: v for k, v in line.items() if k not in machine} for line in read_metrics(out) if "loss" in line]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """(run folder, model, how many programs were compiled before each step)."""
    out, compiled, programs = tmp_path_factory.mktemp("run"), [], []

    def listener(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            programs.append(event)

    trainer = small_trainer(data, out, AVERAGED, validate=lambda model: {"val_map": 0.25})
    trainer.batches = Watched(trainer.batches, lambda step: compiled.append(len(programs)))
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        model = trainer.run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    return out, model, compiled


def test_a_run_leaves_metrics_checkpoint_and_config(whole):
    out, model, _ = whole
    lines = read_metrics(out)
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [3, 6, 8]
    parts = ("loss_rpn_class", "loss_rpn_box", "loss_roi_class", "loss_roi_box", "loss_roi_mask")
    for line in trained:
        assert line["loss"] == pytest.approx(sum(line[p] for p in parts), rel=1e-4)
        assert line["images_per_second"] > 0
    assert lines[-1] == {"step": 8, "val_map": 0.25}
    assert all(line["memory_mb"] > 50 and 0 <= line["positive_rois"] <= 2 * 4 for line in trained)
    assert sum(line["positive_anchors"] for line in trained) > 0
    assert curves(out)["loss"] == {line["step"]: pytest.approx(line["loss"], rel=1e-5) for line in trained}
    assert curves(out)["val_map"] == {8: 0.25}
    assert_same_weights(load_run(out), model)
    assert json.loads((out / "config.json").read_text())["versions"]["jax"] == jax.__version__


def test_no_program_is_compiled_after_the_first_steps_of_a_phase(whole):
    """Step 1 compiles the first phase, step 4 the second; the first checkpoint and the first line come with step 3."""
    _, _, compiled = whole
    assert compiled[0] < compiled[1]
    assert compiled[1] == compiled[2]
    assert compiled[3] < compiled[4]
    assert compiled[4] == compiled[7]


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interrupted_run_goes_on_bit_for_bit(data, whole, tmp_path, stop_at):
    """At 3 the phase changes and the optimizer starts anew; the other stops cut a line of the log in two."""

    def ask_to_stop(step):
        if step == stop_at - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    interrupted = small_trainer(data, tmp_path, AVERAGED)
    interrupted.batches = Watched(interrupted.batches, ask_to_stop)
    with pytest.raises(Interrupted, match="SIGTERM"):
        interrupted.run()
    assert checkpoint.newest_step(tmp_path).name == str(stop_at)
    again = small_trainer(data, tmp_path, AVERAGED)
    assert again.step == stop_at
    assert_same_weights(again.run(), whole[1])
    assert losses(tmp_path) == losses(whole[0])


def test_the_model_of_a_checkpoint_is_the_average_and_the_optimizer_keeps_the_weights(data, tmp_path):
    """The decay of the first update is 1 / 10."""
    interrupted = small_trainer(data, tmp_path, AVERAGED)
    interrupted.batches = Watched(interrupted.batches, lambda step: step < 1 or os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        interrupted.run()
    again = small_trainer(data, tmp_path, AVERAGED)
    raw = checkpoint._by_name(optax.tree.get(again._optimizer, "average"))
    before, after = map(checkpoint.named_parameters, (small_model(), again.model))
    assert any(not np.array_equal(raw[name], before[name]) for name in raw)
    for name in before:
        expected = 0.1 * before[name] + 0.9 * raw[name] if name in raw else before[name]
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-7)


def test_a_finished_run_is_left_as_it_is(data, whole):
    out, model, _ = whole
    again = small_trainer(data, out, AVERAGED)
    assert again.step == 8
    assert_same_weights(again.run(), model)


def test_a_nan_loss_ends_the_run_and_names_the_images(data, tmp_path):
    broken = small_trainer(data, tmp_path, AVERAGED)
    broken.model.fpn.laterals[0].kernel[...] = np.nan
    with pytest.raises(RunError, match=r"step 1: NaN or infinite loss; its images: scene_\d+.png, scene_\d+.png; "):
        broken.run()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_the_best_is_kept_as_a_run_of_its_own(data, tmp_path):
    """The best of 0.1, 0.4, 0.3 and 0.2 is that of step 4."""
    values = iter((0.1, 0.4, 0.3, 0.2))
    models = []

    def validate(model):
        models.append(model)
        return {"val_map": next(values)}

    small_trainer(data, tmp_path, dataclasses.replace(AVERAGED, validate_every=2), validate=validate).run()
    assert [p.name for p in (tmp_path / "best" / "checkpoints").iterdir()] == ["4"]
    assert_same_weights(load_run(tmp_path / "best"), models[1])
    assert Best(tmp_path, 3)._value == 0.1
    assert Best(tmp_path, 8)._value == 0.4


@pytest.mark.parametrize(("folder", "every"), [("checkpoints", 0), ("best", 1)])
def test_a_disk_without_room_ends_the_run_in_a_sentence(data, tmp_path, monkeypatch, folder, every):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    config = dataclasses.replace(AVERAGED, validate_every=every, log_every=1)
    with pytest.raises(RunError, match=rf"no room for a checkpoint in .*{folder}.*make room"):
        small_trainer(data, tmp_path, config, validate=lambda model: {"val_map": 0.5}).run()
    assert list(tmp_path.glob("**/checkpoints/*")) == []
    assert read_metrics(tmp_path)[0]["step"] == 1


def test_a_checkpoint_that_fails_on_the_way_leaves_nothing_half_written(data, tmp_path, monkeypatch):
    def fail(self, step, args):
        (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    with pytest.raises(RunError, match=r"cannot write a checkpoint to .*: the disk is full; .*has room"):
        small_trainer(data, tmp_path, AVERAGED).run()
    assert list((tmp_path / "checkpoints").iterdir()) == []
