"""A map read between its cells, and the samples of a bin reduced to one value (Mask R-CNN section 3).

A point (y, x) takes the mean of the four cells around it, each weighted by how near it is:

    f(y, x) = sum_ij w(y - i) w(x - j) f[i, j],    w(d) = max(0, 1 - |d|)

Positions count in cells, with the centre of cell i at i. The maps of a batch, image after image and level after level,
make one list of cells [n, c]: then there is one gather for all, and one scatter-add in its gradient.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.kernels.rows import pool_rows


class Maps(NamedTuple):
    """The map that each of r RoIs is read from: `height` x `width` cells from number `start` of the list of cells."""

    height: Int[Array, " r"]
    width: Int[Array, " r"]
    start: Int[Array, " r"]

    @classmethod
    def same(cls, height: int, width: int, r: int) -> "Maps":
        """All r RoIs are read from one map."""
        return cls(jnp.full(r, height), jnp.full(r, width), jnp.zeros(r, jnp.int32))


class AxisSamples(NamedTuple):
    """Where r RoIs are sampled along one axis: o bins with s samples each, in cells of the map."""

    position: Float[Array, "r o s"]
    inside: Bool[Array, "r o s"]  # False reads 0
    share: Float[Array, "r s"]  # in the bin's mean; 0 for one that only repeats another


def neighbours(
    samples: AxisSamples, length: Int[Array, " r"]
) -> list[tuple[Int[Array, "r o s"], Float[Array, "r o s"]]]:
    """The two cells next to each sample along one axis, each with its weight.

    Of the two one is even and one is odd. "Below" and "above" would jump where a sample lies on a cell: compilers
    compute a position twice, for index and weight, and may round it differently. The even cell jumps only where its
    weight is 0, and so does the odd one. A position outside the map is moved onto its border.

    >>> at = AxisSamples(jnp.array([[[1.25]]]), jnp.ones((1, 1, 1), bool), jnp.ones((1, 1)))
    >>> [(cell.item(), weight.item()) for cell, weight in neighbours(at, jnp.array([8]))]
    [(2, 0.25), (1, 0.75)]
    """
    last = (length - 1)[:, None, None]
    position = jnp.clip(samples.position, 0, last)
    even, odd = 2 * jnp.round(position / 2), 2 * jnp.floor(position / 2) + 1
    from_even = jnp.where(position < even, even - position, position - even)  # `abs` has a derivative of 0 on a cell
    return [
        (jnp.clip(cell.astype(jnp.int32), 0, last), jnp.where(samples.inside, weight, 0.0))
        for cell, weight in ((even, 1.0 - from_even), (odd, from_even))
    ]


Neighbours = list[tuple[Array, Array]]


def _around(maps: Maps, y_cells: Neighbours, x_cells: Neighbours, i: int | Array, j: int | Array) -> Neighbours:
    """The four cells around sample i along y and j along x of every bin [r, o, o], each with its weight."""
    start, width = maps.start[:, None, None], maps.width[:, None, None]
    return [
        (start + y[:, :, None, i] * width + x[:, None, :, j], weight_y[:, :, None, i] * weight_x[:, None, :, j])
        for y, weight_y in y_cells
        for x, weight_x in x_cells
    ]


def _share(rows: AxisSamples, columns: AxisSamples, i: int | Array, j: int | Array) -> Array:
    """Of a sample in its bin's mean, [r, 1, 1]."""
    return (rows.share[:, i] * columns.share[:, j])[:, None, None]


def _pool_at_once(cells, maps, rows, columns, reduce, dtype) -> Array:
    """`bilinear_pool` by `kernels/rows.py`."""
    y_cells, x_cells = neighbours(rows, maps.height), neighbours(columns, maps.width)
    index, weight = [], []
    for i in range(rows.position.shape[2]):
        for j in range(columns.position.shape[2]):
            share = _share(rows, columns, i, j) if reduce == "mean" else 1.0
            found = _around(maps, y_cells, x_cells, i, j)
            index.append(jnp.stack([cell.reshape(-1) for cell, _ in found]))
            weight.append(jnp.stack([(share * w).reshape(-1) for _, w in found]))
    return pool_rows(cells, jnp.stack(index), jnp.stack(weight).astype(dtype), reduce)


@partial(jax.jit, static_argnames=("reduce", "kernels"))
def bilinear_pool(
    cells: Float[Array, "n c"],
    maps: Maps,
    rows: AxisSamples,
    columns: AxisSamples,
    *,
    reduce: Literal["mean", "max"] = "mean",
    kernels: str = "xla",
) -> Float[Array, "r o o c"]:
    """Read every RoI's map at the samples of each bin, along y (`rows`) and x, and reduce over the bin.

    Values are at least float32, also for cells of bfloat16. `kernels` is that of `layers.Compute`; "gpu" rounds values
    to the cells' type.

    Two maps of 1x2 cells, (0, 4) and (1, 3), each read halfway between its cells:

    >>> cells, maps = jnp.array([[0.0], [4.0], [1.0], [3.0]]), Maps(*jnp.array([[1, 1], [2, 2], [0, 2]]))
    >>> yes, one = jnp.ones((2, 1, 1), bool), jnp.ones((2, 1))
    >>> rows, columns = (AxisSamples(jnp.full((2, 1, 1), at), yes, one) for at in (0.0, 0.5))
    >>> bilinear_pool(cells, maps, rows, columns).ravel().tolist()
    [2.0, 2.0]
    """
    r, o, down = rows.position.shape
    across = columns.position.shape[2]
    dtype = jnp.promote_types(cells.dtype, rows.position.dtype)  # of positions it is float32 at least
    if kernels == "gpu":
        return _pool_at_once(cells, maps, rows, columns, reduce, dtype).reshape(r, o, o, -1).astype(dtype)
    cells = cells.astype(dtype)  # before the gather, whose gradient is a scatter-add: inexact and slow in bfloat16

    y_cells, x_cells = neighbours(rows, maps.height), neighbours(columns, maps.width)

    def add_sample(k: Array, total: Array) -> Array:
        i, j = k // across, k % across
        value = jnp.zeros((), dtype)
        for index, weight in _around(maps, y_cells, x_cells, i, j):
            value += weight[..., None].astype(dtype) * cells[index]
        if reduce == "max":
            return jnp.maximum(total, value)
        return total + _share(rows, columns, i, j)[..., None].astype(dtype) * value

    first = jnp.full((r, o, o, cells.shape[1]), -jnp.inf if reduce == "max" else 0.0, dtype)
    return jax.lax.fori_loop(0, down * across, add_sample, first)
