"""Results in order, errors that arrive, workers that die, and none that stays behind."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from crystal.data.pool import PoolError, in_processes


def answer(task):
    if task == "die":
        os._exit(9)
    if task == "complain":
        raise ValueError("not this one")
    return task, os.getpid()


def slow_answer(task):
    time.sleep(0.05)  # so that all tasks are not on their way before the first is answered
    return answer(task)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_errors_arrive(workers):
    found = []
    with pytest.raises(ValueError, match="not this one"):
        found.extend(in_processes(answer, [*range(7), "complain", 8], workers))
    assert [task for task, _ in found] == list(range(7))
    assert (os.getpid() in {pid for _, pid in found}) is (workers == 1)


def test_a_worker_that_dies_is_a_sentence():
    with pytest.raises(PoolError, match="memory ran out"):
        list(in_processes(answer, [1, "die"], 2))


ABANDONED = """
import os, sys
from crystal.data.pool import in_processes
from tests.crystal.data.test_pool import slow_answer

if __name__ == "__main__":
    results = in_processes(slow_answer, list(range(50)), 2)
    print(next(results)[1], flush=True)
    os.kill(os.getpid(), 9)
"""


def runs(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "abandoned.py").write_text(ABANDONED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    said = tmp_path / "said"
    with said.open("w") as file:  # not a pipe, which a worker that stays would keep open
        subprocess.run([sys.executable, tmp_path / "abandoned.py"], env=environment, stdout=file, check=False)
    worker = int(said.read_text())
    deadline = time.monotonic() + 20
    while runs(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not runs(worker)


def test_closing_early_leaves_nobody():
    with contextlib.closing(in_processes(answer, list(range(50)), 2)) as results:
        _, pid = next(results)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
