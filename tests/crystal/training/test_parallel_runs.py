"""Small processes in place of trainings: how they are started, watched and stopped."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from crystal.console import Bars
from crystal.training import parallel_runs
from crystal.training.options import Train
from crystal.training.parallel_runs import Training, TrainingError, train_in_parallel

QUICK = "import sys; sys.exit(0)"
ENDLESS = "import time; time.sleep(600)"
FAILING = "import sys; print('the disk is on fire'); sys.exit(3)"


class Script(Training):
    """A training whose command is a line of Python, in the place of its data."""

    @property
    def command(self):
        return [sys.executable, "-c", self.options.data]


def run(tmp_path, *codes, **options):
    scripts = [Script(f"script {k}", Train(code, tmp_path / f"{k}"), 10) for k, code in enumerate(codes)]
    with (
        Bars() as bars,
        contextlib.closing(train_in_parallel(scripts, bars=bars, compiled=tmp_path, **options)) as all_,
    ):
        return [training.name for training, _ in all_]


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    processes = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            processes.append(self)

    monkeypatch.setattr(parallel_runs.subprocess, "Popen", Popen)
    return processes


def test_as_many_at_once_as_asked_for_until_all_are_done(tmp_path, started):
    marks = "import pathlib, time; p = pathlib.Path({!r}); p.touch(); time.sleep(0.7); p.unlink()"
    count = f"import pathlib; assert len(list(pathlib.Path({str(tmp_path)!r}).glob('*.mark'))) <= 2; "
    codes = [count + marks.format(str(tmp_path / f"{k}.mark")) for k in range(4)]
    assert sorted(run(tmp_path, *codes)) == [f"script {k}" for k in range(4)]
    assert len(started) == 4
    assert all(process.returncode == 0 for process in started)


def test_seconds_end_with_the_last_output_and_are_left_out_of_a_resumed_run(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n')
    code = "import os, sys; os.utime(sys.stdout.fileno(), (0, 0))"  # as if its last output were long ago
    scripts = [Script(f"script {k}", Train(code, tmp_path / f"{k}"), 10) for k in range(2)]
    with Bars() as bars:
        seconds = {t.name: spent for t, spent in train_in_parallel(scripts, bars=bars, compiled=tmp_path)}
    assert seconds == {"script 0": 0, "script 1": None}


def test_one_that_fails_ends_the_others_and_shows_the_end_of_its_output(tmp_path, started):
    with pytest.raises(TrainingError, match=r"script 1 ended with code 3(?s:.)*the disk is on fire"):
        run(tmp_path, ENDLESS, FAILING, QUICK)
    assert len(started) == 2  # the third was not begun
    assert all(process.poll() is not None for process in started)


def test_sigterm_ends_what_was_started(tmp_path, started):
    before = signal.getsignal(signal.SIGTERM)
    terminate = f"import os, time; time.sleep(0.2); os.kill({os.getpid()}, {int(signal.SIGTERM)}); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        run(tmp_path, ENDLESS, terminate)
    assert all(process.poll() is not None for process in started)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_finished_run_that_ends_in_a_complaint_counts(tmp_path):
    """`crystal train` exits with 1 at the end where annotations were left out; the training is whole."""
    (tmp_path / "0" / "checkpoints" / "10" / "model").mkdir(parents=True)
    assert run(tmp_path, FAILING) == ["script 0"]


def test_the_command_is_crystal_train(tmp_path):
    training = Training("one", Train(tmp_path / "drops", tmp_path / "run"), 5)
    words = ["-m", "crystal", "train", "--data", str(tmp_path / "drops"), "--out", str(tmp_path / "run")]
    assert training.command[1:8] == words
    assert training.output == tmp_path / "run.log"
