"""Several processes that train together: how they find each other, what the first does for all, and how they end.

One process takes all devices of its machine and needs none of this. Several (a machine each, or a device each) run the
same command; who they are comes from their launcher, which JAX recognises (SLURM, Open MPI), or from the environment:

    JAX_COORDINATOR_ADDRESS=host:port JAX_NUM_PROCESSES=4 JAX_PROCESS_ID=0 crystal train ...

The first process writes logs, settings and the console, and validates; checkpoints are written by all. Where one dies
the others cannot go on, since every step sums over all: they end with a sentence, and the same command goes on from the
last checkpoint.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # its key-value store, which JAX offers nowhere else; Orbax uses it from here too
from jax.sharding import Mesh

from crystal.console import console
from crystal.errors import CrystalError
from maskrcnn_jax.training.mesh import replicated, shard_batch

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# What a launcher sets when it starts a process; the first is the number of processes. A shell inside an allocation has
# some of them, and is not started by it.
LAUNCHERS = (
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_MCA_orte_hnp_uri"),
)
START_SECONDS = 300  # to wait for all processes to come
HEARTBEAT_SECONDS = 30  # after which a process that says nothing is taken for dead; a dead connection is seen at once
STEPS_BEHIND = 2  # see Agreement
WAIT_MILLISECONDS = 24 * 3600 * 1000  # for the first process to validate; its death is seen by the heartbeat
LAST_WORD_SECONDS = 2.0  # for an error to be printed before a process leaves without waiting for the others
AGAIN = "start the same command again, on all, to go on from the last checkpoint"
LOST = f"another process of this run has ended, see what it printed; {AGAIN}"
GONE = f"this process of the run was killed, or ended because it had lost another one; {AGAIN}"
APART = (
    "the processes of this run did not find each other: start all of them, with the same address, whose port must be "
    "free on the first one's host and open to the others"
)
SAID = "said"
# A process beside this one that prints the last line it was given, unless it is SAID, once this one is gone: JAX's own
# threads abort a process that waits in vain for the others, or loses the coordinator, and leave Python no word.
WATCHER = f"""
import sys
word = sys.stdin.read().splitlines()[-1]
if word != "{SAID}":
    print("error:", word, file=sys.stderr, flush=True)
"""
_watchers: list[subprocess.Popen] = []  # one where there are several processes
_calls = itertools.count()  # of `from_first`, which all processes call in the same order


class ProcessError(CrystalError, RuntimeError):
    """Processes that do not find each other, or lost each other."""


def is_first() -> bool:
    """Whether this process writes and speaks for all."""
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
    """Arguments for `jax.distributed.initialize`; None: this process is alone."""
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
        raise ProcessError(
            f"{ADDRESS}={os.environ[ADDRESS]} must be host:port, a free port of the first process's host"
        )
    return None if count == 1 else {"num_processes": count, "process_id": index}


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Join the other processes, if there are any, before JAX computes anything; leave them at the end.

    Raises ProcessError. Where this process or another fails, this one does not wait for the others to leave.
    """
    settings = _settings()
    if settings is None:
        yield
        return
    with contextlib.suppress(AttributeError):  # its handler of SIGTERM would be beside the trainer's own
        jax.config.update("jax_enable_preemption_service", False)
    command = [sys.executable, "-ISc", WATCHER]
    _watchers.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, text=True))
    try:
        with a_loss_ends_all():
            _last_word(APART)
            _join(settings)
            _last_word(GONE)
            console.quiet = not is_first()
            yield
            from_first(dict)  # nobody leaves while the first still works
    except BaseException as error:
        if not getattr(error, "agreed", False):
            # JAX would wait for the others, which wait for this one: the interpreter's own end is not to be had.
            code = 130 if isinstance(error, KeyboardInterrupt) else 1
            leave = threading.Timer(LAST_WORD_SECONDS, os._exit, [code])
            leave.daemon = True
            leave.start()
        raise
    finally:
        _last_word(SAID)
        _watchers.pop().communicate()


@contextlib.contextmanager
def a_loss_ends_all() -> Iterator[None]:
    """End this process at once, with a sentence, when it turns out that another one has ended.

    At once, because whatever is still to be finished, a checkpoint for one, would wait for the lost process.
    """
    try:
        yield
    except Exception as error:
        if not (_watchers and _is_loss(error)):
            raise
        console.show_cursor()
        print(f"error: {LOST}", file=sys.stderr, flush=True)
        _last_word(SAID)
        os._exit(1)


def _last_word(text: str) -> None:
    """What is to be printed if this process ends without another word."""
    pipe = _watchers[0].stdin
    assert pipe is not None
    pipe.write(f"{text}\n")
    pipe.flush()


def _join(settings: dict[str, Any]) -> None:
    try:
        jax.distributed.initialize(
            **settings, initialization_timeout=START_SECONDS, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"{APART} ({str(error).splitlines()[0][:200]})") from error


def _is_loss(error: BaseException) -> bool:
    """Whether an error, or what it came from, is the loss of another process, as JAX's transports tell it."""
    if isinstance(error, ProcessError):
        return False
    if isinstance(error, RuntimeError | ValueError) and not isinstance(error, CrystalError):
        return any(word in str(error) for word in ("Gloo", "NCCL", "oordination", "arrier"))
    return error.__cause__ is not None and _is_loss(error.__cause__)


def from_first(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `compute` returns (plain values) in the first process, in all of them; the others wait for it.

    Through the coordinator: in a collective of devices the others would give up after half a minute.
    """
    if jax.process_count() == 1:
        return compute()
    coordinator: Any = distributed.global_state.client
    key = f"crystal/from_first/{next(_calls)}"
    if is_first():
        coordinator.key_value_set(key, json.dumps(compute()))
    return json.loads(coordinator.blocking_key_value_get(key, WAIT_MILLISECONDS))


def check_alike(values: dict[str, Any], claimed: Path) -> None:
    """Hold what this process was told against what the first was, and see the folder that the first made.

    Raises ProcessError: processes that compute different things would wait for each other for ever, or mix them.
    """
    values = json.loads(json.dumps(values))
    firsts = from_first(lambda: values)
    differing = [name for name, value in values.items() if value != firsts[name]]
    if differing:
        raise ProcessError(
            f"process {jax.process_index()} has other {' and '.join(differing)} than process 0: start the same command "
            "on the same data with the same versions everywhere"
        )
    if not claimed.exists():
        raise ProcessError(
            f"process {jax.process_index()} does not see {claimed}, which process 0 has written: choose an --out on a "
            "file system that all processes share"
        )


class Agreement:
    """Whether any process was asked to stop, known to all after the same step: `agreed(asked)`, once a step.

    The answer is that of two steps ago: it came with them, so that no device waits for a question.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._any = jax.jit(jnp.any, out_shardings=replicated(mesh))
        self._answers: deque[jax.Array] = deque()

    def __call__(self, asked: bool) -> bool:
        if jax.process_count() == 1:
            return asked
        self._answers.append(self._any(shard_batch(np.full(jax.local_device_count(), asked), self._mesh)))
        return len(self._answers) > STEPS_BEHIND and bool(self._answers.popleft())
