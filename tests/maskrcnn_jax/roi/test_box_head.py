import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.roi.box_head import BoxHead


def test_two_hidden_layers_over_row_column_channel():
    head = BoxHead(2, pooled_size=3, hidden=8, num_classes=4, rngs=nnx.Rngs(0))
    pooled = jax.random.normal(jax.random.key(0), (5, 3, 3, 2))
    logits, deltas = nnx.jit(lambda head, pooled: head(pooled))(head, pooled)
    assert logits.shape == (5, 4)
    assert deltas.shape == (5, 4, 4)
    relu, weights = (
        lambda v: np.maximum(v, 0),
        lambda layer: (np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])),
    )
    hidden = np.asarray(pooled).reshape(5, 18)
    for kernel, bias in (weights(head.first), weights(head.second)):
        hidden = relu(hidden @ kernel + bias)
    kernel, bias = weights(head.classes)
    np.testing.assert_allclose(logits, hidden @ kernel + bias, atol=1e-5)
    kernel, bias = weights(head.deltas)
    for k in range(4):  # class by class: x, y, w, h
        np.testing.assert_allclose(deltas[:, k], (hidden @ kernel + bias)[:, 4 * k : 4 * k + 4], atol=1e-5)


def test_starts_undecided_and_without_moving():
    head = BoxHead(4, pooled_size=7, hidden=32, num_classes=3, rngs=nnx.Rngs(1))
    logits, deltas = head(jax.random.normal(jax.random.key(0), (6, 7, 7, 4)))
    assert np.abs(jax.nn.softmax(logits) - 1 / 3).max() < 0.15
    assert np.abs(deltas).max() < 0.05


def test_bfloat16_inside_float32_outside():
    head = BoxHead(2, pooled_size=3, hidden=8, num_classes=4, dtype="bfloat16", rngs=nnx.Rngs(0))
    same = BoxHead(2, pooled_size=3, hidden=8, num_classes=4, rngs=nnx.Rngs(0))
    assert head.first.kernel[...].dtype == jnp.float32
    pooled = jax.random.normal(jax.random.key(0), (5, 3, 3, 2))
    (logits, deltas), (exact, _) = head(pooled), same(pooled)
    assert logits.dtype == deltas.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=2e-3)
    assert (logits != exact).any()
