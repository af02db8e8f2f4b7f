"""Data parallelism: a one-dimensional mesh of devices, the batch sharded over it, everything else replicated.

As in every data-parallel trainer (Goyal et al. 2017, section 2), each of n devices has b / n of a batch of b images,
gradients are summed over the devices, and all devices make the same update. In JAX that takes a `Mesh` and two
shardings, and is the same program for one process or many: each process puts its own images onto its own devices, as
parts of one global array.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = "data"  # name of the axis


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A one-dimensional mesh of the given devices; default: all devices of all processes.

    Devices are in JAX's order, by process, so that the batch is in the order of the processes; `jax.make_mesh` may
    permute them.

    >>> data_mesh(jax.devices()[:1]).axis_names
    ('data',)
    """
    return Mesh(np.array(jax.devices() if devices is None else devices), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, P())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of the tree on every device. Every process must pass the same values: nothing is sent between them.

    Apply it to a state before its first step, which returns replicated arrays: otherwise the step is compiled twice.
    With one device the result may share the tree's memory.
    """
    return _put(tree, replicated(mesh))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Global arrays [b, ...], sharded over all devices, from this process's arrays [b / processes, ...].

    Raises ValueError if this process's images cannot be divided evenly among its devices.
    """
    return _put(batch, NamedSharding(mesh, P(DATA)))


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def on_one_device(tree: Any) -> Any:
    """The data of a replicated tree on this process's first device, without a copy."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
