"""A run folder is claimed once: with other settings, weights or data it is refused."""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys

import pytest

from crystal.errors import RunError
from crystal.training.config import TrainConfig
from crystal.training.run_folder import claim, locked

CONFIG = TrainConfig.tiny()


def begun(folder):
    """A folder with a checkpoint."""
    (folder / "checkpoints" / "5").mkdir(parents=True, exist_ok=True)
    return folder


def test_a_folder_of_another_run_is_refused(tmp_path):
    begun(tmp_path)
    for _ in range(2):
        claim(tmp_path, CONFIG, None, {"train": "abc"})
    claim(tmp_path, CONFIG, None)
    with pytest.raises(RunError, match=r"train\.batch_size"):
        claim(tmp_path, dataclasses.replace(CONFIG, batch_size=3), None)
    with pytest.raises(RunError, match="init"):
        claim(tmp_path, CONFIG, "elsewhere")
    with pytest.raises(RunError, match=r"the data have changed since the run began \(data\.train\); .*--init"):
        claim(tmp_path, CONFIG, None, {"train": "abd"})
    claim(tmp_path, CONFIG, None, {"train": "abc", "val": "new"})  # of a run that noted no validation split


def test_without_a_checkpoint_settings_can_be_corrected(tmp_path):
    claim(tmp_path, CONFIG, "elsewhere", {"train": "abc"})
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)  # one that was never finished
    claim(tmp_path, dataclasses.replace(CONFIG, batch_size=3), None, {"train": "abd"})
    settings = json.loads((tmp_path / "config.json").read_text())
    assert (settings["train"]["batch_size"], settings["init"], settings["data"]) == (3, None, {"train": "abd"})


def test_what_no_result_depends_on_may_change(tmp_path):
    claim(begun(tmp_path), CONFIG, None)
    changed = dataclasses.replace(CONFIG, workers=3, log_every=7, checkpoint_every=9)
    claim(tmp_path, changed, None)
    assert TrainConfig.from_dict(json.loads((tmp_path / "config.json").read_text())["train"]) == changed


def test_only_going_on(tmp_path):
    with pytest.raises(RunError, match="no run to go on with"), locked(tmp_path / "none", resume=True):
        pass
    assert not (tmp_path / "none").exists()


HOLD = """
import sys, time
from pathlib import Path
from crystal.training.run_folder import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_train_into_one_folder(tmp_path):
    """The message names the other one; the lock of a process that was killed is free."""
    out = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=rf"process {other.pid} on {re.escape(socket.gethostname())}"), locked(out):
            pass
        other.kill()
        other.wait()
        with locked(out):
            assert json.loads((out / ".lock.json").read_text())["process"] == os.getpid()
            with pytest.raises(RunError, match=f"process {os.getpid()} on"), locked(out):
                pass
    assert not (out / ".lock.json").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot create .*choose another --out"), locked(tmp_path / "file" / "run"):
        pass


def test_the_config_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "config.json").write_text('{"theme": "dark"}')
    with pytest.raises(RunError, match=r"config\.json is not the config of a training run"):
        claim(tmp_path, CONFIG, None)
    assert (tmp_path / "config.json").read_text() == '{"theme": "dark"}'
