"""Data parallelism: the devices in a row, the batch spread over them, everything else whole on each.

The idea of every data-parallel trainer (Goyal et al. 2017, section 2): b images on n devices are b / n images on each,
and gradients are summed over the devices before the update, which all then make alike. In JAX that is a `Mesh` and two
shardings, and it is the same program for one process with eight devices as for four hosts: each process puts its own
images onto its own devices, and what spans them is one array.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = "data"  # the one axis


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices of all processes in a row (or those given), a process's own beside each other.

    In JAX's plain order, by process, so that the batch lies in the order in which the processes hold it;
    `jax.make_mesh` may permute devices to suit a torus, which a row does not need.

    >>> data_mesh(jax.devices()[:1]).axis_names
    ('data',)
    """
    return Mesh(np.array(jax.devices() if devices is None else devices), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree whole on every device. Every process must hold the same values: nothing is sent.

    Do this to a state before its first step: the step returns replicated arrays, and arrays placed otherwise would
    have the same step compiled twice. One device: its memory may be shared with the tree's.
    """
    return _placed(tree, replicated(mesh))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Arrays [b / processes, ...] of this process, as the arrays [b, ...] of all processes, spread over their devices.

    Raises ValueError if this process's images do not divide evenly among its devices.
    """
    return _placed(batch, NamedSharding(mesh, P(DATA)))


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def on_one_device(tree: Any) -> Any:
    """A replicated tree as its first device in this process has it (no copy), to be used without the others."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
