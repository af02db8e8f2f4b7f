"""RoI Align's reading of cells with a gradient for GPUs; `kernels="gpu"` in the config chooses it.

The plain gradient (`roi/bilinear.py`) adds to the cells once for every sample and neighbour, each time through the
whole array of cells and with one atomic addition for every number. Here all additions are sorted by their cell and made
at once: XLA then adds up those of one cell in registers.

What is read, (n, c) cells of `table`, may be bfloat16: products and sums are float32.
"""

import functools
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Reduce = Literal["mean", "max"]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def pool_rows(
    table: Float[Array, "n c"], index: Int[Array, "s k m"], weight: Float[Array, "s k m"], reduce: Reduce
) -> Float[Array, "m c"]:
    """Weighted sums of rows: over k rows for each of s samples, then the samples' sum or maximum, m times.

    Args:
        table: rows, here cells of feature maps.
        index: of the rows of each sample (Mask R-CNN section 3: the four around it).
        weight: of each; for "mean" the sample's share is part of it.
        reduce: "mean" adds up the samples, "max" takes the largest in each column.

    Returns:
        In the table's type.

    Two samples of one row each, of two results:

    >>> table, index = jnp.array([[1.0], [10.0], [100.0]]), jnp.array([[[0, 1]], [[2, 2]]])
    >>> half = jnp.full((2, 1, 2), 0.5)
    >>> [pool_rows(table, index, half, reduce).ravel().tolist() for reduce in ("mean", "max")]
    [[50.5, 55.0], [50.0, 50.0]]
    """
    return _forward(table, index, weight, reduce)[0]


def _total(terms: list[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


def _samples(table: Array, index: Array, weight: Array) -> list[Array]:
    """The weighted sum [m, c] of each sample, written out so that all reading is one kernel."""
    sums = []
    for cells, shares in zip(index, weight, strict=True):
        read = [table.at[at].get(mode="promise_in_bounds") for at in cells]
        sums.append(_total([share[:, None] * row for share, row in zip(shares, read, strict=True)]))
    return sums


def _forward(table, index, weight, reduce):
    values = _samples(table, index, weight)
    if reduce == "mean":
        return _total(values).astype(table.dtype), (table, index, weight, None)
    kind = jnp.int8 if len(values) <= 128 else jnp.int32
    largest, best = values[0], jnp.zeros(values[0].shape, kind)
    for number, value in enumerate(values[1:], 1):
        best = jnp.where(value > largest, number, best).astype(kind)
        largest = jnp.maximum(largest, value)
    return largest.astype(table.dtype), (table, index, weight, best)


def _backward(reduce, saved, gradient):
    table, index, weight, best = saved
    s, k, m = index.shape
    rows, order = lax.sort((index.reshape(-1), lax.iota(jnp.int32, s * k * m)), num_keys=1, is_stable=False)
    result, sample = order % m, order // (k * m)

    def take(values: Array, at: Array) -> Array:
        return values.at[at].get(mode="promise_in_bounds")

    terms = take(gradient, result).astype(weight.dtype) * take(weight.reshape(-1), order)[:, None]
    if best is not None:
        terms = jnp.where(take(best, result) == sample[:, None], terms, 0)
    # Never in bfloat16, which GPUs add atomically by trying again and again.
    total = jnp.zeros(table.shape, weight.dtype)
    total = total.at[rows].add(terms, mode="promise_in_bounds", indices_are_sorted=True)
    return total.astype(table.dtype), None, _of_weights(table, index, gradient, best)


def _of_weights(table, index, gradient, best):
    """The gradient with respect to the weights; compiled away where it is not used."""
    found = []
    for sample, rows in enumerate(index):
        pull = gradient if best is None else jnp.where(best == sample, gradient, 0)
        found.append(jnp.stack([(table[i].astype(jnp.float32) * pull).sum(1) for i in rows]))
    return jnp.stack(found)


pool_rows.defvjp(_forward, _backward)
