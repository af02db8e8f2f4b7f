"""Weighted sums of table rows: RoI Align's interpolation (Mask R-CNN section 3) with given weights.

    out[m] = sum_k weight[k, m] * table[index[k, m]]

RoI Align reads four cells for each of a bin's four samples: k = 16. Two things make it fast:

- The forward pass is unrolled over k, not reduced over an axis: XLA then emits one vectorised loop over the channels of
  k rows at once, without an array of all terms in memory.
- The backward pass is k scatter-adds into one float32 array, in a `scan`; autodiff of the forward pass would give k
  separate arrays to be added up.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MAX_UNROLLED = 16  # terms; more are added up in a loop over groups of this size


def plain_weighted_rows(
    table: Float[Array, "n c"], index: Int[Array, "k m"], weight: Float[Array, "k m"]
) -> Float[Array, "m c"]:
    """The reference: gather all rows, then sum; the result is float32.

    >>> table = jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    >>> plain_weighted_rows(table, jnp.array([[0], [2]]), jnp.array([[0.5], [2.0]])).tolist()
    [[6.5, 65.0]]
    """
    return (table[index].astype(jnp.float32) * weight[..., None]).sum(0)


@jax.custom_vjp
def weighted_rows(
    table: Float[Array, "n c"], index: Int[Array, "k m"], weight: Float[Array, "k m"]
) -> Float[Array, "m c"]:
    """A faster `plain_weighted_rows`, differentiable in table and weights. Indices must be in [0, n).

    >>> table, index = jnp.array([[1.0], [2.0]]), jnp.array([[0, 1], [1, 1]])
    >>> weighted_rows(table, index, jnp.ones((2, 2))).tolist()
    [[3.0], [4.0]]
    >>> jax.grad(lambda table: weighted_rows(table, index, jnp.ones((2, 2))).sum())(table).tolist()
    [[1.0], [3.0]]
    """
    k, m = index.shape
    if k <= MAX_UNROLLED:
        return _unrolled(table, index, weight)
    padding = -k % MAX_UNROLLED
    index, weight = (jnp.pad(a, ((0, padding), (0, 0))).reshape(-1, MAX_UNROLLED, m) for a in (index, weight))
    zeros = jnp.zeros((m, table.shape[1]), jnp.float32)
    return jax.lax.scan(lambda total, group: (total + _unrolled(table, *group), None), zeros, (index, weight))[0]


def _unrolled(table: Array, index: Array, weight: Array) -> Array:
    total = jnp.zeros((index.shape[1], table.shape[1]), jnp.float32)
    for rows, factor in zip(index, weight, strict=True):
        total += table.at[rows].get(mode="promise_in_bounds").astype(jnp.float32) * factor[:, None]
    return total


def _forward(table, index, weight):
    return weighted_rows(table, index, weight), (table, index, weight)


def _backward(saved, gradient):
    table, index, weight = saved

    def add_term(total, term):
        rows, factor = term
        total = total.at[rows].add(gradient * factor[:, None], mode="promise_in_bounds")
        values = table.at[rows].get(mode="promise_in_bounds").astype(jnp.float32)
        return total, (values * gradient).sum(1)

    table_gradient, weight_gradient = jax.lax.scan(add_term, jnp.zeros(table.shape, jnp.float32), (index, weight))
    return table_gradient.astype(table.dtype), None, weight_gradient


weighted_rows.defvjp(_forward, _backward)
