"""Work on many files in several processes, results in the order of the tasks."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from crystal.errors import CrystalError

Task = TypeVar("Task")
Result = TypeVar("Result")


class PoolError(CrystalError, RuntimeError):
    """A process of the pool died."""


def _start_worker() -> None:
    """Use one core, leave Ctrl-C to the parent process, and discard stderr: libjpeg and libpng write lines about
    damaged images there, which would cut through a progress bar. Errors are raised, not written.
    """
    cv2.setNumThreads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the parent process, which may be killed without a chance to end its workers."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Generator[Result, None, None]:
    """`map(function, tasks)` by `workers` processes; 1 works in this one. Closing the generator ends the workers.

    What `function` raises is raised here.

    Raises:
        PoolError: a worker died, usually because memory ran out.
    """
    if workers <= 1 or len(tasks) <= 1:
        yield from map(function, tasks)
        return
    # Not fork: children of a process with XLA's threads would hang.
    pool = ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield from pool.map(function, tasks)
    except BrokenProcessPool as error:
        raise PoolError(
            "a worker process died, usually because memory ran out; repeat the command with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
