"""Means for the log, and the losses and gradients that end a run."""

import dataclasses

import jax.numpy as jnp
import pytest

from crystal.errors import RunError
from crystal.training.config import TrainConfig
from crystal.training.monitor import Monitor

CONFIG = dataclasses.replace(TrainConfig.tiny(), batch_size=2, skips_allowed=3)


def monitor(tmp_path):
    return Monitor(CONFIG, lambda ids: [f"{i}.png" for i in ids], tmp_path)


def metrics(total=1.0, skipped=0.0):
    parts = dict.fromkeys(("rpn_class", "rpn_box", "roi_class", "roi_box", "roi_mask"), total / 5)
    values = parts | {"total": total, "grad_norm": 2.0, "skipped": skipped, "positive_anchors": 3, "positive_rois": 1}
    return {name: jnp.asarray(value) for name, value in values.items()}


def test_a_line_is_the_mean_of_its_steps(tmp_path):
    steps = monitor(tmp_path)
    for total in (1.0, 3.0):
        steps.add(metrics(total), [7, 8], waited=0.0)
    line = steps.line(2, learning_rate=0.1)
    assert line["loss"] == 2.0
    assert line["loss_roi_mask"] == pytest.approx(0.4)
    assert (line["learning_rate"], line["grad_norm"], line["positive_anchors"], line["skipped"]) == (0.1, 2.0, 3.0, 0.0)
    steps.add(metrics(9.0), [7], waited=0.0)
    assert steps.line(3, learning_rate=0.1)["loss"] == 9.0


def test_a_validation_counts_neither_images_nor_time(tmp_path, monkeypatch):
    """Four steps of 2 images in 4 s, a validation of 100 s after the second: 2 images a second."""
    now = [0.0]
    monkeypatch.setattr("crystal.training.monitor.time.monotonic", lambda: now[0])
    steps = monitor(tmp_path)
    for step in range(1, 5):
        now[0] += 1
        steps.add(metrics(), [1, 2], waited=0.5)
        if step == 2:
            with steps.clock_stopped(step):
                now[0] += 100
    line = steps.line(4, learning_rate=0.1)
    assert (line["images_per_second"], line["input_wait_share"]) == (2.0, 0.5)


def test_the_step_that_broke_is_named_with_its_images_and_the_last_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    steps = monitor(tmp_path)
    steps.add(metrics(), [1, 2], waited=0.0)
    steps.add(metrics(float("nan"), skipped=1.0), [3, 4], waited=0.0)
    steps.add(metrics(), [5, 6], waited=0.0)
    with pytest.raises(RunError, match=r"step 42: NaN or infinite loss; its images: 3\.png, 4\.png; ") as raised:
        steps.check(43)
    assert "checkpoints/40: " in str(raised.value)
    assert str(raised.value).endswith("--learning-rate 0.0005")  # a third of the present one, by its option


def test_growth_of_the_loss_is_relative_to_the_first_line(tmp_path):
    steps = monitor(tmp_path)
    steps.add(metrics(2.0), [1], waited=0.0)
    steps.line(1, learning_rate=0.1)
    steps.add(metrics(39.0), [2], waited=0.0)
    steps.line(2, learning_rate=0.1)
    steps.add(metrics(41.0), [3], waited=0.0)
    with pytest.raises(
        RunError, match=r"step 3: the loss has grown from 2 to 41, 20 times; its images: 3\.png; no checkpoint"
    ):
        steps.check(3)


def test_single_steps_with_nan_gradients_are_allowed(tmp_path):
    steps = monitor(tmp_path)
    for step, skipped in enumerate((1, 1, 0, 1, 1), start=1):
        steps.add(metrics(skipped=skipped), [step], waited=0.0)
    assert steps.line(5, learning_rate=0.1)["skipped"] == pytest.approx(0.8)
    steps.add(metrics(skipped=1), [6], waited=0.0)
    with pytest.raises(RunError, match=r"step 6: NaN or infinite gradients in 3 steps in a row; its images: 6\.png"):
        steps.check(6)


def test_the_state_holds_what_is_not_yet_logged(tmp_path):
    whole, first = monitor(tmp_path), monitor(tmp_path)
    for steps in (whole, first):
        for total in (2.0, 4.0):
            steps.add(metrics(total), [1], waited=0.0)
        steps.line(2, learning_rate=0.1)
        steps.add(metrics(0.1), [1], waited=0.0)
    second = monitor(tmp_path)
    second.set_state(first.get_state())
    for steps in (whole, second):
        steps.add(metrics(0.7), [1], waited=0.0)
    lines = [steps.line(4, learning_rate=0.1) for steps in (whole, second)]
    assert lines[0]["loss"] == lines[1]["loss"]
    second.add(metrics(61.0), [9], waited=0.0)  # 20 times the first line's 3.0
    with pytest.raises(RunError, match="from 3 to 61"):
        second.check(5)
