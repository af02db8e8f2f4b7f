"""One device or several: the same numbers, the same placing, one program, and nothing sent but sums."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from maskrcnn_jax.training.mesh import data_mesh, on_one_device, replicate, shard_batch

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def reports():
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {os.environ['XLA_FLAGS']}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "tests/data_parallel.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {int(devices): report for devices, report in json.loads(done.stdout).items()}


def test_five_steps_on_two_devices_are_those_on_one(reports):
    assert len(reports[1]["metrics"]) == 5
    for ours, alone in zip(reports[2]["metrics"], reports[1]["metrics"], strict=True):
        assert ours == pytest.approx(alone, rel=1e-5)
    assert reports[1]["metrics"][0]["total"] > 1.05 * reports[1]["metrics"][-1]["total"]
    assert 0 < reports[2]["difference"] < 1e-5


@pytest.mark.parametrize("devices", [1, 2])
def test_the_frozen_stay(reports, devices):
    assert reports[devices]["frozen_parameters_moved"] == 0


def test_devices_exchange_sums_and_nothing_else(reports):
    """No gathered feature maps, proposals or RoIs: only gradients, losses and counts are added up."""
    assert reports[1]["collectives"] == []
    assert reports[2]["collectives"] == ["all-reduce"]


def test_on_one_device_nothing_changes():
    mesh = data_mesh()
    assert mesh.size == jax.device_count()
    assert list(mesh.devices) == sorted(mesh.devices, key=lambda device: device.id)
    tree = {"a": np.arange(6.0).reshape(2, 3), "key": jax.random.key(3)}
    placed = replicate(tree, mesh)
    assert placed["a"].sharding.is_fully_replicated
    np.testing.assert_array_equal(on_one_device(placed)["a"], tree["a"])
    batch = shard_batch(np.arange(8.0).reshape(4, 2), mesh)
    np.testing.assert_array_equal(batch, np.arange(8.0).reshape(4, 2))
