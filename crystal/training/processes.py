"""Training with several processes: how they connect, what they check about each other, and how all of them stop.

One process uses all devices of its machine and needs none of this. Several processes (one for each machine, or for each
device) run the same command. Who they are comes from a launcher that JAX recognises (SLURM, Open MPI), or from the
environment:

    JAX_COORDINATOR_ADDRESS=host:port JAX_NUM_PROCESSES=4 JAX_PROCESS_ID=0 crystal train ...

Process 0 writes the settings, the log and the console; all write checkpoints. If a process dies, JAX ends the others
within a minute, since every step sums over all of them; the same command, started on all, goes on from the last
checkpoint.
"""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from crystal.console import console
from crystal.errors import CrystalError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# What a launcher sets in a process that it starts; the first is the number of processes. A shell inside an allocation
# has some of these variables, but not all.
LAUNCHERS = (
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_MCA_orte_hnp_uri"),
)
START_SECONDS = 300  # to wait for all processes to connect
HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as dead
END_SECONDS = 30  # that a process which ends waits for the others


class ProcessError(CrystalError, RuntimeError):
    """Processes that do not find each other or do not fit together."""


def is_first() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


def share_of_batch(batch_size: int) -> int:
    """Images of a batch that this process prepares. Raises ProcessError if the devices do not divide the batch."""
    devices = jax.device_count()
    if batch_size % devices:
        raise ProcessError(
            f"batch_size {batch_size} cannot be divided among {devices} devices: choose a multiple of {devices}, e.g. "
            f"--set batch_size={-(-batch_size // devices) * devices}, or make fewer devices visible"
        )
    return batch_size // jax.process_count()


def _settings() -> dict[str, Any] | None:
    """Arguments for `jax.distributed.initialize`; None if this process trains alone."""
    given = [name for name in (ADDRESS, COUNT, INDEX) if os.environ.get(name)]
    if not given:
        counts = [os.environ[names[0]] for names in LAUNCHERS if all(name in os.environ for name in names)]
        return {} if counts and counts[0] != "1" else None
    missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in given]
    if missing:
        raise ProcessError(f"{given[0]} is set but {', '.join(missing)} is not: set all three or none of them")
    try:
        count, index = int(os.environ[COUNT]), int(os.environ[INDEX])
    except ValueError as error:
        raise ProcessError(f"{COUNT} and {INDEX} must be whole numbers: {error}") from error
    if not 0 <= index < count:
        raise ProcessError(f"{INDEX}={index} must be from 0 to {count - 1}, for {COUNT}={count}")
    if not os.environ[ADDRESS].rpartition(":")[2].isdigit():
        raise ProcessError(f"{ADDRESS}={os.environ[ADDRESS]} must be host:port, a free port on the host of process 0")
    return None if count == 1 else {"num_processes": count, "process_id": index}


def connect() -> None:
    """Connect with the other processes, if there are any. To be called before JAX computes anything.

    Raises ProcessError if the environment is contradictory or the others are not found.
    """
    settings = _settings()
    if settings is None:
        return
    try:
        jax.distributed.initialize(
            **settings,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=END_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"the processes of this run did not find each other ({str(error).splitlines()[0][:200]}): start all of "
            "them with the same address, whose port must be free on the host of process 0 and open to the others"
        ) from error
    console.quiet = not is_first()


def gather(numbers: Sequence[int]) -> np.ndarray:
    """The same few whole numbers of every process, [processes, numbers]. All processes wait for each other."""
    return multihost_utils.process_allgather(np.array(numbers, np.int32)).reshape(-1, len(numbers))


def check_alike(values: dict[str, Any], claimed: Path) -> None:
    """Check that `values`, which JSON can hold, are the same in all processes, and that all see the file `claimed`.

    Raises ProcessError, in every process: with different programs they would wait for each other for ever.
    """
    digests = [hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:4] for value in values.values()]
    present = multihost_utils.process_allgather(np.frombuffer(b"".join(digests), np.uint32)).reshape(-1, len(values))
    differing = [name for name, column in zip(values, present.T, strict=True) if len(set(column.tolist())) > 1]
    if differing:
        raise ProcessError(
            f"the processes of this run have different {' and '.join(differing)}: start the same command on the same "
            "data with the same versions everywhere"
        )
    if not claimed.exists():
        raise ProcessError(
            f"process {jax.process_index()} does not see {claimed}, which process 0 has written: choose an --out on a "
            "file system that all processes share"
        )


@contextmanager
def stop_requests() -> Iterator[Callable[[int], signal.Signals | None]]:
    """A function of the step just made: by which signal, Ctrl-C or SIGTERM, the run is to stop after it, or None.

    A second Ctrl-C interrupts at once. Where several processes train, any of them may be asked to stop, and all stop
    after the same step: JAX's preemption service, which takes SIGTERM itself, agrees on it.
    """
    several = jax.process_count() > 1
    requests: list[signal.Signals] = []

    def note(number: int, _frame: Any) -> None:
        if requests and number == signal.SIGINT:
            raise KeyboardInterrupt
        requests.append(signal.Signals(number))
        if several:
            signal.raise_signal(signal.SIGTERM)

    def stop_after(step: int) -> signal.Signals | None:
        if several:
            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
        return requests[0] if requests else None

    before = {s: signal.signal(s, note) for s in ((signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM))}
    try:
        yield stop_after
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
