"""Processes of one run: who they are, that they compute what one computes, and what happens when one dies."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from crystal.data.dataset import load_split
from crystal.data.loader import training_loader
from crystal.prediction.trained_model import load_run
from crystal.training import processes
from crystal.training.checkpoints import Checkpoints
from crystal.training.log import read_metrics
from crystal.training.options import Train, command_line
from crystal.training.processes import ProcessError, check_alike, connect, share_of_batch, stop_requests
from crystal.training.run_folder import claim
from crystal.training.starting_weights import starting_model
from crystal.training.train import resolve
from crystal.training.trainer import Interrupted, Trainer
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import small_model

ROOT = Path(__file__).resolve().parents[3]
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_JOB_ID": "77",
}
EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "node1:9876", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.fixture
def environment(monkeypatch):
    """A function that sets variables, where none that matter are set."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_PROC", "JAX_PROCESS_ID")):
            monkeypatch.delenv(name)
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (EXPLICIT, {"num_processes": 2, "process_id": 1}),
        (EXPLICIT | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (SLURM, {}),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "77"}, None),  # a shell in an allocation, not a task of it
        (SLURM | EXPLICIT, {"num_processes": 2, "process_id": 1}),
    ],
)
def test_who_a_process_is(environment, variables, expected):
    environment(variables)
    assert processes._settings() == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_COORDINATOR_ADDRESS is set but JAX_PROCESS_ID is not"),
        ({"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2 must be from 0 to 1"),
        ({"JAX_NUM_PROCESSES": "two"}, "must be whole numbers"),
        ({"JAX_COORDINATOR_ADDRESS": "node1"}, "must be host:port"),
    ],
)
def test_settings_that_do_not_fit_are_refused(environment, change, named):
    environment(EXPLICIT | change)
    with pytest.raises(ProcessError, match=named):
        connect()


def test_a_batch_that_the_devices_do_not_divide_is_refused(monkeypatch):
    assert share_of_batch(3) == 3
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(ProcessError, match=r"batch_size 6 .* 4 devices: .* --set batch_size=8"):
        share_of_batch(6)


def test_a_process_alone_agrees_with_itself(environment, tmp_path):
    environment({})
    connect()
    check_alike({"settings": {"size": (1, 2)}}, tmp_path)
    with pytest.raises(ProcessError, match="file system that all processes share"):
        check_alike({"settings": 1}, tmp_path / "elsewhere")


def test_what_differs_between_processes_is_named(monkeypatch, tmp_path):
    def gather(own):
        return np.stack([own, own + np.array([0, 1], own.dtype)])

    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
    with pytest.raises(ProcessError, match="the processes of this run have different data: "):
        check_alike({"settings": {}, "data": 4}, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_alone_stops_when_asked(number):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with stop_requests() as stop_after:
        assert stop_after(1) is None
        os.kill(os.getpid(), number)
        assert stop_after(2) is number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


# -- two real processes over loopback --------------------------------------------------------------------------------

SETTINGS = ("batch_size=4", "log_every=1", "decay=constant", "warmup=2")
STEPS = 5  # the first in a single process


def options(folder, out, *, steps):
    return Train(
        folder / "data", out, init=str(folder / "weights"), steps=steps, checkpoint_every=5, clahe=False, set=SETTINGS
    )


def start(*words):
    """Two processes of a Python command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=os.environ
            | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
            | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in (0, 1)
    ]


def train(asked):
    return start("-m", "crystal", "train", *command_line(asked))


def trainer(asked, **more):
    """The same run in this process."""
    split = load_split(asked.data, "train")
    config = resolve(split, asked)
    shown = {"size": (64, 64), "zooms": config.model.image.zooms, "slots": config.slots}
    batches = training_loader(split, **shown, batch_size=4, seed=0, clahe=False, augment=config.augment)
    claim(asked.out, config, asked.init)
    return Trainer(starting_model(config, Path(asked.init))[0], batches, config, asked.out, **more)


def ended(pair):
    """(exit code, output) of both."""
    try:
        outputs = [process.communicate(timeout=240)[0] for process in pair]
    finally:
        for process in pair:
            process.kill()
    return [(process.returncode, output) for process, output in zip(pair, outputs, strict=True)]


def losses(out):
    return [{k: v for k, v in line.items() if "loss" in k or k in ("step", "grad_norm")} for line in read_metrics(out)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """data, weights, `alone`, a run of one process on one device, and `begun`, a copy of it after its first step."""
    folder = tmp_path_factory.mktemp("processes")
    write_scenes(folder / "data", 6, seed=1)
    checkpoint.save(small_model(7), folder / "weights")
    asked = options(folder, folder / "alone", steps=STEPS)
    with pytest.raises(Interrupted):
        trainer(asked, progress=lambda done, note: os.kill(os.getpid(), signal.SIGTERM)).run()
    assert checkpoint.newest_step(folder / "alone").name == "1"
    shutil.copytree(folder / "alone", folder / "begun")
    trainer(asked).run()
    return folder


@pytest.mark.slow
def test_two_processes_go_on_from_one_and_give_the_same(folder):
    first, second = ended(train(options(folder, folder / "begun", steps=STEPS)))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "goes on from step 1" in first[1]
    assert "goes on" not in second[1], "only process 0 prints"
    assert [line["step"] for line in losses(folder / "alone")] == [1, 2, 3, 4, 5]
    for ours, alone in zip(losses(folder / "begun"), losses(folder / "alone"), strict=True):
        assert ours == pytest.approx(alone, rel=1e-5)
    ours, alone = (nnx.state(load_run(folder / name)) for name in ("begun", "alone"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(alone), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@pytest.mark.slow
def test_a_dead_process_ends_the_other_and_the_run_can_go_on(folder):
    asked = options(folder, folder / "lost", steps=100_000)
    pair = train(asked)
    while not (asked.out / "checkpoints" / "5").exists():
        assert all(process.poll() is None for process in pair), ended(pair)
        time.sleep(0.02)
    pair[1].kill()
    first, second = ended(pair)
    assert second[0] == -signal.SIGKILL
    assert first[0] not in (0, -signal.SIGKILL), first
    for ours, alone in zip(losses(asked.out)[:5], losses(folder / "alone"), strict=True):
        assert ours == pytest.approx(alone, rel=1e-5)
    again = trainer(asked)
    assert again.step == int(checkpoint.newest_step(asked.out).name)
    again.checkpoints.close()


STEPPING = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
from crystal.training import processes
from maskrcnn_jax.training.mesh import data_mesh, replicated, shard_batch

processes.connect()
mesh = data_mesh()
total = jax.jit(jnp.sum, out_shardings=replicated(mesh))
with processes.stop_requests() as stop_after:
    for step in range(1, 100_000):
        total(shard_batch(np.ones(1), mesh)).block_until_ready()
        if step == 1:
            print("started", flush=True)
        if stop := stop_after(step):
            print(stop.name, step)
            sys.exit(143)
"""


@pytest.mark.slow
def test_one_process_is_asked_and_both_stop_after_the_same_step():
    """By Ctrl-C, which is passed on as SIGTERM to JAX's preemption service."""
    pair = start("-c", STEPPING)
    for process in pair:
        while process.stdout.readline() != "started\n":
            assert process.poll() is None
    pair[1].send_signal(signal.SIGINT)
    first, second = ended(pair)
    assert (first[0], second[0]) == (143, 143), (first, second)
    assert first[1].splitlines()[-1] == second[1].splitlines()[-1]
    assert "SIGTERM" in first[1]


READING = """
import sys
from pathlib import Path
import jax
import numpy as np
from crystal.training import processes
from crystal.training.checkpoints import Checkpoints
from tests.small import small_model

processes.connect()
restore = Checkpoints._restore

def read(self, step, *arguments):
    if jax.process_index() == 1 and step == 4:
        raise ValueError("cut short here alone")
    return restore(self, step, *arguments)

Checkpoints._restore = read
checkpoints = Checkpoints(Path(sys.argv[1]))
print("step", checkpoints.newest_whole(small_model(), lambda step: {"count": np.zeros(1)}).step)
checkpoints.close()
"""


@pytest.mark.slow
def test_both_go_on_from_a_checkpoint_that_both_can_read(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (2, 4):
        checkpoints.save(step, small_model(step), {"count": np.zeros(1)}, {})
    checkpoints.close()
    for code, output in ended(start("-c", READING, str(tmp_path))):
        assert code == 0, output
        assert output.splitlines()[-1] == "step 2"
    assert [path.name.split("-")[0] for path in (tmp_path / "damaged-checkpoints").iterdir()] == ["4"]
