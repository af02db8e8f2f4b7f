"""Weighted sums of table rows: what RoI Align's interpolation (Mask R-CNN section 3) is once the weights are known.

    out[m] = sum_k weight[k, m] * table[index[k, m]]

RoI Align reads four cells for each of a bin's four samples, so k = 16 here. Two things make it fast:

- Forward the k terms are written out, not reduced over an axis: XLA then emits one loop whose innermost part runs over
  the channels of k rows at once, in vector instructions and without an array of all terms in memory. 512 boxes of
  7x7 bins, 256 channels, two CPU cores: 0.010 s, against 0.3 s with the samples as axes that are summed afterwards.
- Backward is k scatter-adds into one float32 array, one after the other in a `scan`, which compiles one of them; what
  autodiff makes of the forward pass would be k separate ones whose results are added up (0.17 s against 0.40 s).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

WRITTEN_OUT = 16  # terms at most in one loop; more are taken in turns


def plain_weighted_rows(
    table: Float[Array, "n c"], index: Int[Array, "k m"], weight: Float[Array, "k m"]
) -> Float[Array, "m c"]:
    """The reference: gather everything, then sum. Float32 whatever the table is.

    >>> table = jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    >>> plain_weighted_rows(table, jnp.array([[0], [2]]), jnp.array([[0.5], [2.0]])).tolist()
    [[6.5, 65.0]]
    """
    return (table[index].astype(jnp.float32) * weight[..., None]).sum(0)


@jax.custom_vjp
def weighted_rows(
    table: Float[Array, "n c"], index: Int[Array, "k m"], weight: Float[Array, "k m"]
) -> Float[Array, "m c"]:
    """`plain_weighted_rows`, faster; differentiable in the table and the weights. Indices must lie in [0, n).

    >>> table, index = jnp.array([[1.0], [2.0]]), jnp.array([[0, 1], [1, 1]])
    >>> weighted_rows(table, index, jnp.ones((2, 2))).tolist()
    [[3.0], [4.0]]
    >>> jax.grad(lambda table: weighted_rows(table, index, jnp.ones((2, 2))).sum())(table).tolist()
    [[1.0], [3.0]]
    """
    k, m = index.shape
    if k <= WRITTEN_OUT:
        return _written_out(table, index, weight)
    spare = -k % WRITTEN_OUT
    index, weight = (jnp.pad(a, ((0, spare), (0, 0))).reshape(-1, WRITTEN_OUT, m) for a in (index, weight))
    zeros = jnp.zeros((m, table.shape[1]), jnp.float32)
    return jax.lax.scan(lambda total, some: (total + _written_out(table, *some), None), zeros, (index, weight))[0]


def _written_out(table: Array, index: Array, weight: Array) -> Array:
    total = jnp.zeros((index.shape[1], table.shape[1]), jnp.float32)
    for rows, share in zip(index, weight, strict=True):
        total += table.at[rows].get(mode="promise_in_bounds").astype(jnp.float32) * share[:, None]
    return total


def _forward(table, index, weight):
    return weighted_rows(table, index, weight), (table, index, weight)


def _backward(saved, gradient):
    table, index, weight = saved

    def add_term(total, term):
        rows, share = term
        total = total.at[rows].add(gradient * share[:, None], mode="promise_in_bounds")
        values = table.at[rows].get(mode="promise_in_bounds").astype(jnp.float32)
        return total, (values * gradient).sum(1)

    for_table, for_weight = jax.lax.scan(add_term, jnp.zeros(table.shape, jnp.float32), (index, weight))
    return for_table.astype(table.dtype), None, for_weight


weighted_rows.defvjp(_forward, _backward)
