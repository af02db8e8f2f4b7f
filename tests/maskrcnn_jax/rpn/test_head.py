import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.rpn.head import RPNHead
from maskrcnn_jax.structures import Pyramid
from tests import oracles
from tests.traced import assert_finite_gradients, assert_jit_changes_nothing


def test_order_is_level_row_column_ratio():
    """A cell raised on one level moves exactly the rows that `pyramid_anchors` lists for it and its neighbours."""
    head = RPNHead(2, 4, anchors_per_cell=3, rngs=nnx.Rngs(0))
    levels = Pyramid(*(jnp.zeros((2, side, 2 * side, 2)) for side in (8, 4, 2, 1, 1)))
    raised = levels._replace(p3=levels.p3.at[1, 1, 6, 0].set(50.0))
    run = nnx.jit(lambda head, pyramid: head(pyramid))
    logits, deltas = run(head, raised)
    assert logits.shape == (2, (128 + 32 + 8 + 2 + 2) * 3)
    assert deltas.shape == (*logits.shape, 4)
    changed = np.asarray((deltas != run(head, levels)[1]).any(-1))
    cells = {(y * 8 + x) * 3 + ratio for y in (0, 1, 2) for x in (5, 6, 7) for ratio in range(3)}
    assert set((np.flatnonzero(changed[1]) - 128 * 3).tolist()) == cells
    assert not changed[0].any()


def test_jit_changes_nothing_one_trace_finite_gradients():
    head = RPNHead(2, 4, anchors_per_cell=3, rngs=nnx.Rngs(0))
    some, others = (
        Pyramid(*(np.float32(np.random.default_rng(seed).normal(size=(1, side, side, 2))) for side in (4, 2, 1, 1, 1)))
        for seed in (0, 1)
    )
    assert_jit_changes_nothing(lambda levels: head(levels), (some,), (others,), atol=1e-6)
    assert_finite_gradients(lambda levels: head(levels), others._replace(p3=0 * some.p3))


def test_equals_the_oracle():
    """Three convolutions at every cell of every level, flattened by row, column and ratio."""
    head = RPNHead(2, 4, anchors_per_cell=3, rngs=nnx.Rngs(0))
    levels = Pyramid(*(jax.random.normal(jax.random.key(side), (1, side, side + 1, 2)) for side in (4, 3, 2, 1, 1)))
    logits, deltas = nnx.jit(lambda head, levels: head(levels))(head, levels)
    expected: tuple[list, list] = ([], [])
    for level in levels:
        weights = {name: np.asarray(getattr(head, name).kernel[...]) for name in ("shared", "objectness", "deltas")}
        shared = np.maximum(oracles.conv2d(np.asarray(level[0]), weights["shared"], 1, ((1, 1), (1, 1))), 0)
        for rows, name, last in zip(expected, ("objectness", "deltas"), (1, 4), strict=True):
            rows.append(oracles.conv2d(shared, weights[name], 1, ((0, 0), (0, 0))).reshape(-1, last))
    np.testing.assert_allclose(logits[0], np.concatenate(expected[0])[:, 0], atol=1e-5)
    np.testing.assert_allclose(deltas[0], np.concatenate(expected[1]), atol=1e-5)


def test_one_convolution_for_all_levels_and_small_outputs():
    head = RPNHead(2, 4, anchors_per_cell=3, rngs=nnx.Rngs(0))
    same = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    logits, deltas = head(Pyramid(same, same, same, same, same))
    np.testing.assert_allclose(logits.reshape(5, -1), jnp.tile(logits[:, :48], (5, 1)), atol=1e-6)
    assert np.abs(logits).max() < 1
    kernel, bias = head.deltas.kernel[...][0, 0], head.deltas.bias[...]
    cell = jax.nn.relu(head.shared(same))[0, 1, 2] @ kernel + bias  # 12 numbers: ratio, then x y w h
    np.testing.assert_allclose(deltas[0, (1 * 4 + 2) * 3 : (1 * 4 + 2) * 3 + 3], cell.reshape(3, 4), atol=1e-6)
