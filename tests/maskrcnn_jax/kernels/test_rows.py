"""Reading of rows with a sorted gradient, against the plain reading of `roi/bilinear.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.config import Sampling
from maskrcnn_jax.kernels.rows import pool_rows
from maskrcnn_jax.roi.bilinear import Maps, bilinear_pool
from maskrcnn_jax.roi.grid import sample_grid

RNG = np.random.default_rng(0)
ROIS = 20


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(reduce="max"),
        Sampling(kind="corners"),
        Sampling(sampling_ratio=0, max_samples=3, reduce="max"),
    ],
    ids=["mean", "max", "corners", "adaptive max"],
)
def test_equals_plain_reading_with_all_gradients(sampling):
    """Of cells, and of shifts of all samples of a bin; boxes reach over the map's border, and far beyond it."""
    corners = RNG.uniform(-3, 12, (ROIS, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(0, 12, (ROIS, 2))], 1)
    boxes[0] += 100
    if sampling.kind == "corners":
        boxes /= 14
    maps = Maps.same(12, 14, ROIS)
    rows, columns = sample_grid(jnp.float32(boxes), maps, bins=3, sampling=sampling)
    cells, pull = np.float32(RNG.normal(size=(12 * 14, 5))), np.float32(RNG.normal(size=(ROIS, 3, 3, 5)))

    def pool(kernels, cells, y, x):
        grid = (axis._replace(position=axis.position + shift) for axis, shift in ((rows, y), (columns, x)))
        return bilinear_pool(cells, maps, *grid, reduce=sampling.reduce, kernels=kernels)

    def both(kernels):
        out, back = jax.vjp(lambda *arguments: pool(kernels, *arguments), cells, *2 * [jnp.zeros((ROIS, 3, 1))])
        return out, *back(pull)

    for ours, plain in zip(both("gpu"), both("xla"), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_bfloat16_is_added_up_in_float32(reduce):
    """300 results read one row: its gradient is 300, where a sum in bfloat16 would stop at 256."""
    table = jnp.ones((4, 2), jnp.bfloat16)
    index, weight = jnp.zeros((2, 1, 300), jnp.int32), jnp.full((2, 1, 300), 0.5 if reduce == "mean" else 1.0)
    out, back = jax.vjp(lambda table: pool_rows(table, index, weight, reduce), table)
    assert (out.dtype, float(out[0, 0])) == (jnp.bfloat16, 1.0)
    assert back(jnp.ones_like(out))[0].astype(jnp.float32).tolist() == [[300.0] * 2, *[[0.0] * 2] * 3]


def test_the_largest_sample_alone_has_a_gradient():
    """By hand: of the rows 1, 5 and 3, each of weight 2; of equal samples the first."""
    table, two = jnp.array([[1.0], [5.0], [3.0]]), jnp.full((3, 1, 2), 2.0)
    index = jnp.array([[[0, 2]], [[1, 2]], [[2, 2]]])
    out, back = jax.vjp(lambda table: pool_rows(table, index, two, "max"), table)
    assert out.ravel().tolist() == [10.0, 6.0]
    assert back(jnp.array([[1.0], [10.0]]))[0].ravel().tolist() == [0.0, 2.0, 20.0]


def test_more_samples_than_a_byte_counts():
    table, index = jnp.arange(200.0)[:, None], jnp.arange(200).reshape(200, 1, 1)
    _, back = jax.vjp(lambda table: pool_rows(table, index, jnp.ones((200, 1, 1)), "max"), table)
    assert back(jnp.ones((1, 1)))[0].ravel().tolist() == [0.0] * 199 + [1.0]


def test_no_rois():
    empty = jnp.zeros((1, 4, 0), jnp.int32), jnp.zeros((1, 4, 0))
    gradient = jax.grad(lambda table: pool_rows(table, *empty, "mean").sum())(jnp.ones((3, 2)))
    assert gradient.tolist() == [[0.0, 0.0]] * 3
