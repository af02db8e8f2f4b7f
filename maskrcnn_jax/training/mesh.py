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
    """A one-dimensional mesh of devices, whose axis is named "data".

    Args:
        devices: in the order of their processes, so that a batch is in that order, too. Default: all devices of all
            processes in JAX's order, which is such a one; `jax.make_mesh` may permute them.

    >>> data_mesh(jax.devices()[:1]).axis_names
    ('data',)
    """
    return Mesh(np.array(jax.devices() if devices is None else devices), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, P())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of the tree on every device; with one device it may share the tree's memory.

    Apply it to a state before its first step, which returns replicated arrays: otherwise the step is compiled twice.

    Args:
        tree: of NumPy or JAX arrays. Every process must pass the same values: nothing is sent between them.
        mesh: the devices.

    >>> replicate({"step": np.zeros(3)}, data_mesh())["step"].sharding.is_fully_replicated
    True
    """
    return _put(tree, replicated(mesh))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """A global batch, spread over all devices of all processes.

    Args:
        batch: a tree of this process's part of the batch, arrays [b / processes, ...].
        mesh: the devices; their number must divide b.

    Returns:
        A tree of global arrays [b, ...].

    Raises:
        ValueError: the devices of this process cannot have equal parts of its images.

    >>> batch = shard_batch(np.zeros((len(jax.devices()), 64, 64, 3)), data_mesh())
    >>> {shard.data.shape for shard in batch.addressable_shards}
    {(1, 64, 64, 3)}
    """
    return _put(batch, NamedSharding(mesh, P(DATA)))


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def on_one_device(tree: Any) -> Any:
    """The data of a replicated tree on this process's first device, without a copy.

    >>> on_one_device(replicate(np.arange(3), data_mesh())).tolist()
    [0, 1, 2]
    """
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
