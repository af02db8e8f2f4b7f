"""A run folder: written, taken up again, refused where it is another's."""

import dataclasses
import json
import os
import shutil
import signal
import struct
from collections import defaultdict

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from tensorboardX.proto.event_pb2 import Event

from crystal.data.dataset import load_split
from crystal.data.loader import training_loader
from crystal.errors import RunError
from crystal.prediction.trained_model import load_run
from crystal.training.allocator import RunMemory
from crystal.training.best import Best
from crystal.training.config import Phase, TrainConfig
from crystal.training.run_folder import Log, claim, read_metrics
from crystal.training.starting_weights import initial_model
from crystal.training.trainer import Interrupted, Trainer, resolve, train_command
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import SMALL, small_model

CONFIG = dataclasses.replace(
    TrainConfig.tiny(),
    model=SMALL,
    phases=(Phase("heads", 3, 1e-3), Phase("all", 5, 1e-3)),
    warmup=2,
    batch_size=2,
    slots=8,
    log_every=1,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, 6, seed=1)
    return folder


def trainer(data, out, config=CONFIG, **kwargs):
    split = load_split(data, "train")
    batches = training_loader(
        split, size=(64, 64), batch_size=config.batch_size, slots=config.slots, mask_size=16, seed=0, clahe=False
    )
    claim(out, config, None)
    return Trainer(small_model(), batches, config, out, **kwargs)


def weights(model):
    return [np.asarray(p) for p in jax.tree.leaves(nnx.state(model))]


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


def what_happened(out):
    """The log without validation and without what the machine has a say in."""
    machine = ("images_per_second", "input_wait_share", "memory_mb")
    return [{k: v for k, v in line.items() if k not in machine} for line in read_metrics(out) if "loss" in line]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out, told = tmp_path_factory.mktemp("run"), []

    class Memory(RunMemory):
        def compiled(self):
            told.append((training.step, "compiled"))

        def saving(self):
            told.append((training.step, "saving"))

        def stepped(self, *, writing):
            told.append((training.step, "stepped"))

    training = trainer(data, out, validate=lambda model: {"val_map": 0.25}, memory=Memory())
    model = training.run()
    steps = {event: [step for step, name in told if name == event] for event in ("compiled", "stepped", "saving")}
    assert steps == {"compiled": [0, 3], "stepped": [1, 2, 4, 5, 6, 7], "saving": [2, 3, 4, 6, 8]}
    return out, model


def test_a_run_leaves_metrics_checkpoint_and_config(whole):
    out, model = whole
    lines = read_metrics(out)
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == list(range(1, 9))
    parts = ("loss_rpn_class", "loss_rpn_box", "loss_roi_class", "loss_roi_box", "loss_roi_mask")
    for line in losses:
        assert line["loss"] == pytest.approx(sum(line[p] for p in parts), rel=1e-4)
        assert line["images_per_second"] > 0
    assert lines[-1] == {"step": 8, "val_map": 0.25}
    assert all(line["memory_mb"] > 50 and 0 <= line["positive_rois"] <= 2 * 4 for line in losses)
    assert sum(line["positive_anchors"] for line in losses) > 0
    assert curves(out)["loss"] == {line["step"]: pytest.approx(line["loss"], rel=1e-5) for line in losses}
    assert curves(out)["val_map"] == {8: 0.25}
    again, clahe = load_run(out)
    assert clahe is CONFIG.clahe
    for ours, theirs in zip(weights(again), weights(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert json.loads((out / "config.json").read_text())["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interrupted_run_goes_on_bit_for_bit(data, whole, tmp_path, stop_at):
    """Also across the change of phases at step 3, where the optimizer starts anew."""

    def ask_to_stop(done, note):
        if done == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"):
        trainer(data, tmp_path, progress=ask_to_stop).run()
    assert checkpoint.newest_step(tmp_path).name == str(stop_at)
    again = trainer(data, tmp_path)
    assert again.step == stop_at
    for ours, theirs in zip(weights(again.run()), weights(whole[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert what_happened(tmp_path) == what_happened(whole[0])


def test_a_finished_run_is_left_as_it_is(data, whole, tmp_path):
    out, model = whole
    again = trainer(data, out)
    assert again.step == 8
    for ours, theirs in zip(weights(again.run()), weights(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_folder_of_another_run_is_refused(whole):
    with pytest.raises(RunError, match=r"train\.batch_size"):
        claim(whole[0], dataclasses.replace(CONFIG, batch_size=3), None)
    with pytest.raises(RunError, match="init"):
        claim(whole[0], CONFIG, "elsewhere")


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_images(data, tmp_path):
    broken = trainer(data, tmp_path)
    broken.model.fpn.laterals[0].kernel[...] = np.nan
    with pytest.raises(RunError, match=r"step 1: the loss is not a number; its images: scene_\d+.png, scene_\d+.png; "):
        broken.run()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_line_of_the_log_that_a_stop_cuts_in_two_is_whole_afterwards(data, tmp_path):
    """Steps 1 to 3 in one line, 4 to 6, 7 and 8: the stop comes after 5."""
    config = dataclasses.replace(CONFIG, log_every=3, checkpoint_every=100)
    trainer(data, tmp_path / "whole", config).run()
    interrupted = trainer(data, tmp_path / "cut", config)
    give = type(interrupted.batches).__next__

    def stop_at_5(batches):
        if batches.get_state()["batches"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return give(batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(interrupted.batches), "__next__", stop_at_5)
        with pytest.raises(Interrupted):
            interrupted.run()
    again = trainer(data, tmp_path / "cut", config)
    assert again.step == 5
    again.run()
    assert [line["step"] for line in what_happened(tmp_path / "cut")] == [3, 6, 8]
    assert what_happened(tmp_path / "cut") == what_happened(tmp_path / "whole")


def test_the_best_is_kept_as_a_run_of_its_own(data, tmp_path):
    """The best of 0.1, 0.4 and 0.3 is that of step 4."""
    config = dataclasses.replace(CONFIG, validate_every=2)
    values = iter((0.1, 0.4, 0.3, 0.2))
    models = []

    def validate(model):
        models.append(weights(model))
        return {"val_map": next(values)}

    trainer(data, tmp_path, config, validate=validate).run()
    assert [p.name for p in (tmp_path / "best" / "checkpoints").iterdir()] == ["4"]
    best, clahe = load_run(tmp_path / "best")
    assert clahe is CONFIG.clahe
    for ours, theirs in zip(weights(best), models[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert Best(tmp_path, 3)._value == 0.1
    assert Best(tmp_path, 8)._value == 0.4


def test_a_disk_without_room_for_the_best_ends_the_run_in_a_sentence(data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    config = dataclasses.replace(CONFIG, validate_every=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RunError, match=r"no room for a checkpoint in .*best"):
        trainer(data, tmp_path, config, validate=lambda model: {"val_map": 0.5}).run()
    assert list((tmp_path / "best" / "checkpoints").iterdir()) == []


def test_only_going_on(whole, tmp_path):
    with pytest.raises(RunError, match="no run to go on with"):
        claim(tmp_path / "none", CONFIG, None, resume=True)
    assert not (tmp_path / "none").exists()
    claim(whole[0], CONFIG, None, resume=True)


def test_other_data_is_another_run(tmp_path):
    claim(tmp_path, CONFIG, None, {"train": "abc"})
    claim(tmp_path, CONFIG, None, {"train": "abc"})
    with pytest.raises(RunError, match=r"data\.train"):
        claim(tmp_path, CONFIG, None, {"train": "abd"})


def test_no_program_is_compiled_after_the_first_step_of_a_stage(data, tmp_path, caplog):
    """Two stages, two steps; everything else is small change around them."""
    done = []
    with jax.log_compiles():
        trainer(data, tmp_path, progress=lambda step, note: done.append((step, len(caplog.records)))).run()
    compiled = {step: count for step, count in done}
    assert compiled[2] == compiled[3]
    assert compiled[5] == compiled[8]


def test_a_log_is_cut_back_to_the_step_and_drops_a_line_cut_short(tmp_path):
    log = Log(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step=step, loss=1 / 3)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    Log(tmp_path, 2).close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.333333}, {"step": 2, "loss": 0.333333}]


def test_init_takes_the_architecture_from_the_weights(data, tmp_path):
    init = str(tmp_path / "weights")
    checkpoint.save(small_model(7), init)
    options = dict(preset="tiny", init=init, steps=2, checkpoint_every=None, seed=0, clahe=False)
    config = resolve(load_split(data, "train"), assignments=["batch_size=2", "rpn.nms_iou=0.6"], **options)
    model, _ = initial_model(config, init)
    for architecture in (config.model, model.config):
        assert architecture.fpn_channels == SMALL.fpn_channels
        assert architecture.rpn.nms_iou == 0.6
        assert architecture.classes == ((0, "background"), (1, "shape"))
    with pytest.raises(checkpoint.CheckpointError, match="fpn"):
        train_command(data, tmp_path / "run", assignments=["fpn_channels=16"], **options)
    assert not (tmp_path / "run").exists()


def test_a_disk_without_room_for_a_checkpoint_ends_the_run_in_a_sentence(data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RunError, match=r"no room for a checkpoint in .*make room"):
        trainer(data, tmp_path).run()
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_checkpoint_that_fails_on_the_way_leaves_nothing_half_written(data, tmp_path, monkeypatch):
    def fail(self, step, args):
        (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Error writing")

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    with pytest.raises(RunError, match="the disk is full"):
        trainer(data, tmp_path).run()
    assert list((tmp_path / "checkpoints").iterdir()) == []
