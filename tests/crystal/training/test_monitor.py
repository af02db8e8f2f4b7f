"""What a run notices of its own steps."""

import dataclasses

import jax.numpy as jnp
import pytest

from crystal.errors import RunError
from crystal.training.config import TrainConfig
from crystal.training.monitor import Watch

CONFIG = dataclasses.replace(TrainConfig.tiny(), batch_size=2, skips_allowed=3)


def watch(tmp_path):
    return Watch(CONFIG, lambda ids: [f"{i}.png" for i in ids], tmp_path)


def metrics(total=1.0, skipped=0.0):
    parts = dict.fromkeys(("rpn_class", "rpn_box", "roi_class", "roi_box", "roi_mask"), total / 5)
    values = parts | {"total": total, "grad_norm": 2.0, "skipped": skipped, "positive_anchors": 3, "positive_rois": 1}
    return {name: jnp.asarray(value) for name, value in values.items()}


def test_a_line_is_the_mean_of_its_steps(tmp_path):
    seen = watch(tmp_path)
    for total in (1.0, 3.0):
        seen.add(metrics(total), [7, 8], waited=0.0)
    line = seen.line(2, rate=0.1)
    assert line["loss"] == 2.0
    assert line["loss_roi_mask"] == pytest.approx(0.4)
    assert (line["learning_rate"], line["grad_norm"], line["positive_anchors"], line["skipped"]) == (0.1, 2.0, 3.0, 0.0)
    assert line["images_per_second"] > 0
    seen.add(metrics(9.0), [7], waited=0.0)
    assert seen.line(3, rate=0.1)["loss"] == 9.0


def test_the_step_that_broke_is_named_with_its_images_and_the_last_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    seen = watch(tmp_path)
    seen.add(metrics(), [1, 2], waited=0.0)
    seen.add(metrics(float("nan"), skipped=1.0), [3, 4], waited=0.0)
    seen.add(metrics(), [5, 6], waited=0.0)
    with pytest.raises(
        RunError, match=r"step 42: the loss is not a number; its images: 3\.png, 4\.png; .*checkpoints/40:"
    ):
        seen.look(43)


def test_an_explosion_is_measured_by_the_first_line(tmp_path):
    seen = watch(tmp_path)
    seen.add(metrics(2.0), [1], waited=0.0)
    seen.line(1, rate=0.1)
    seen.add(metrics(39.0), [2], waited=0.0)
    seen.line(2, rate=0.1)
    seen.add(metrics(41.0), [3], waited=0.0)
    with pytest.raises(
        RunError, match=r"step 3: the loss has exploded, from 2 to 41; its images: 3\.png; nothing was saved"
    ):
        seen.look(3)


def test_gradients_may_fail_to_be_finite_now_and_then(tmp_path):
    seen = watch(tmp_path)
    for step, skipped in enumerate((1, 1, 0, 1, 1), start=1):
        seen.add(metrics(skipped=skipped), [step], waited=0.0)
    assert seen.line(5, rate=0.1)["skipped"] == pytest.approx(0.8)
    seen.add(metrics(skipped=1), [6], waited=0.0)
    with pytest.raises(RunError, match=r"step 6: gradients have not been finite for 3 steps; its images: 6\.png"):
        seen.look(6)


def test_what_is_not_yet_logged_travels_with_a_checkpoint(tmp_path):
    whole, first = watch(tmp_path), watch(tmp_path)
    for seen in (whole, first):
        for total in (2.0, 4.0):
            seen.add(metrics(total), [1], waited=0.0)
        seen.line(2, rate=0.1)
        seen.add(metrics(0.1), [1], waited=0.0)
    second = watch(tmp_path)
    second.set_state(first.get_state())
    for seen in (whole, second):
        seen.add(metrics(0.7), [1], waited=0.0)
    lines = [seen.line(4, rate=0.1) for seen in (whole, second)]
    assert lines[0]["loss"] == lines[1]["loss"]
    second.add(metrics(61.0), [9], waited=0.0)  # 20 times the first line's 3.0
    with pytest.raises(RunError, match="from 3 to 61"):
        second.look(5)
