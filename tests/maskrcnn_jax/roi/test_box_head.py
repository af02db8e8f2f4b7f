import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.config import BoxHeadConfig
from maskrcnn_jax.layers import Compute
from maskrcnn_jax.roi.box_head import BoxHead
from tests.traced import assert_finite_gradients, assert_jit_changes_nothing


def test_two_hidden_layers_over_row_column_channel():
    head = BoxHead(2, BoxHeadConfig(3, 8), num_classes=4, rngs=nnx.Rngs(0))
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


def test_jit_one_trace_gradients_and_no_rois():
    head = BoxHead(2, BoxHeadConfig(3, 8), num_classes=4, rngs=nnx.Rngs(0))
    some, others = np.float32(np.random.default_rng(0).normal(size=(2, 5, 3, 3, 2)))
    assert_jit_changes_nothing(lambda pooled: head(pooled), (some,), (others,), atol=1e-6)
    assert_finite_gradients(lambda pooled: head(pooled), 0 * some)
    np.testing.assert_allclose(head(jnp.asarray(some[::-1]))[0], head(jnp.asarray(some))[0][::-1], atol=1e-6)
    logits, deltas = head(jnp.zeros((0, 3, 3, 2)))
    assert (logits.shape, deltas.shape) == ((0, 4), (0, 4, 4))


def test_starts_undecided_and_without_moving():
    head = BoxHead(4, BoxHeadConfig(7, 32), num_classes=3, rngs=nnx.Rngs(1))
    logits, deltas = head(jax.random.normal(jax.random.key(0), (6, 7, 7, 4)))
    assert np.abs(jax.nn.softmax(logits) - 1 / 3).max() < 0.15
    assert np.abs(deltas).max() < 0.05


def test_bfloat16_inside_float32_outside():
    head = BoxHead(2, BoxHeadConfig(3, 8), num_classes=4, compute=Compute("bfloat16"), rngs=nnx.Rngs(0))
    same = BoxHead(2, BoxHeadConfig(3, 8), num_classes=4, rngs=nnx.Rngs(0))
    assert head.first.kernel[...].dtype == jnp.float32
    pooled = jax.random.normal(jax.random.key(0), (5, 3, 3, 2))
    (logits, deltas), (exact, _) = head(pooled), same(pooled)
    assert logits.dtype == deltas.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=2e-3)
    assert (logits != exact).any()


def test_one_box_for_all_classes():
    """The same deltas for each class; those of a class that a loss picks teach the one layer."""
    head = BoxHead(2, BoxHeadConfig(3, 8, class_agnostic=True), num_classes=4, rngs=nnx.Rngs(0))
    pooled = jax.random.normal(jax.random.key(0), (5, 3, 3, 2))
    logits, deltas = head(pooled)
    assert (logits.shape, deltas.shape, head.deltas.kernel.shape) == ((5, 4), (5, 4, 4), (8, 4))
    hidden = jax.nn.relu(head.second(jax.nn.relu(head.first(pooled.reshape(5, 18)))))
    np.testing.assert_array_equal(deltas, np.broadcast_to(np.asarray(head.deltas(hidden))[:, None], (5, 4, 4)))
    gradient = nnx.grad(lambda head: head(pooled)[1][:, 2].sum())(head)["deltas"]["bias"][...]
    np.testing.assert_array_equal(gradient, np.full(4, 5.0))
    assert head(jnp.zeros((0, 3, 3, 2)))[1].shape == (0, 4, 4)
