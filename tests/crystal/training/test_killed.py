"""Killed at any moment, the same command goes on, compiles nothing, and ends as if nothing had happened."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time

import jax
import numpy as np
import pytest
from flax import nnx

from crystal.prediction.trained_model import load_run
from crystal.training.config import Phase
from crystal.training.log import read_metrics
from crystal.weights.pretrain import write_scenes
from tests import small_run

KILLS, STEPS = 4, 40
CONFIG = dataclasses.replace(small_run.CONFIG, phases=(Phase("all", STEPS, 1e-2),), checkpoint_every=4)
MACHINE = ("images_per_second", "input_wait_share", "memory_mb")


def last_step(out):
    lines = read_metrics(out)
    return lines[-1]["step"] if lines else 0


@pytest.mark.slow
def test_kill_minus_nine_at_random_moments_changes_nothing(tmp_path):
    write_scenes(tmp_path / "data", 6, seed=1)
    cache = tmp_path / "programs"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.small_run"])

    def start(name):
        process = context.Process(target=small_run.train, args=(tmp_path / "data", tmp_path / name, CONFIG, cache))
        process.start()
        return process

    def programs():
        return {path.name for path in cache.rglob("*-cache")}

    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    compiled = programs()
    assert compiled

    draw, steps = random.Random(0), []
    for kill in range(KILLS):
        process = start("cut")
        # Somewhere in the next fifth of the run, and anywhere within a step, a line or a checkpoint.
        wanted = last_step(tmp_path / "cut") + draw.randint(1, STEPS // (KILLS + 1) - 3)
        while last_step(tmp_path / "cut") < wanted and process.is_alive():
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"kill {kill} came too late"
        steps.append(last_step(tmp_path / "cut"))
    process = start("cut")
    process.join()
    assert process.exitcode == 0
    assert 0 < steps[0] <= steps[-1] < STEPS
    assert programs() == compiled

    logs = [
        [{k: v for k, v in line.items() if k not in MACHINE} for line in read_metrics(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [*range(3, STEPS, 3), STEPS]
    for ours, theirs in zip(
        *(jax.tree.leaves(nnx.state(load_run(tmp_path / name))) for name in ("whole", "cut")), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    position = f"checkpoints/{STEPS}/position/metadata"
    places = [json.loads((tmp_path / name / position).read_text()) for name in ("whole", "cut")]
    assert places[0] == places[1]
    assert places[0]["input"]["batches"] == STEPS
