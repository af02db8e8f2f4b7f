"""Results in order, errors that arrive, workers that die, and none that stays behind."""

import contextlib
import os

import pytest

from crystal.data.pool import PoolError, in_processes


def answer(task):
    if task == "die":
        os._exit(9)
    if task == "complain":
        raise ValueError("not this one")
    return task, os.getpid()


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


def test_closing_early_leaves_nobody():
    with contextlib.closing(in_processes(answer, list(range(50)), 2)) as results:
        _, pid = next(results)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
