import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.config import MaskHeadConfig
from maskrcnn_jax.roi.mask_head import Deconv2x2, MaskHead
from tests import oracles, recorded
from tests.traced import assert_finite_gradients, assert_jit_changes_nothing


def test_transposed_convolution_by_hand():
    """Each cell becomes 2x2 cells: itself times the kernel's four entries."""
    layer = Deconv2x2(1, 1, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]
    layer.bias[...] = jnp.array([0.5])
    doubled = layer(jnp.array([[[[1.0], [10.0]]]]))[0, :, :, 0]
    assert doubled.tolist() == [[1.5, 2.5, 10.5, 20.5], [3.5, 4.5, 30.5, 40.5]]


def test_transposed_convolution_of_keras():
    """Keras keeps the kernel as [row, column, out, in]."""
    g = recorded.load("matterport_layers")
    layer = Deconv2x2(3, 4, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(g["kp_deconv2x2s2_kernel"].transpose(0, 1, 3, 2))
    layer.bias[...] = jnp.asarray(g["kp_deconv2x2s2_bias"])
    np.testing.assert_allclose(layer(jnp.asarray(g["kp_x"])), g["kp_deconv2x2s2_out"], atol=1e-5)


def test_equals_the_oracle():
    """A 3x3 layer, the doubling, and one mask a class, each but the last followed by a ReLU."""
    head = MaskHead(2, MaskHeadConfig(channels=3, layers=1), num_classes=2, rngs=nnx.Rngs(0))
    pooled = np.float32(np.random.default_rng(0).normal(size=(1, 4, 4, 2)))
    hidden = np.maximum(oracles.conv2d(pooled[0], np.asarray(head.convs[0].kernel[...]), 1, ((1, 1), (1, 1))), 0)
    doubled = np.zeros((8, 8, 3))
    for y, x in np.ndindex(8, 8):
        doubled[y, x] = hidden[y // 2, x // 2] @ np.asarray(head.double.kernel[...])[y % 2, x % 2]
    expected = np.maximum(doubled, 0) @ np.asarray(head.masks.kernel[...])[0, 0]
    np.testing.assert_allclose(nnx.jit(lambda head, pooled: head(pooled))(head, pooled)[0], expected, atol=1e-5)


def test_shape_and_independence_of_rois():
    head = MaskHead(3, MaskHeadConfig(channels=8, layers=2), num_classes=2, rngs=nnx.Rngs(0))
    pooled = jax.random.normal(jax.random.key(0), (4, 5, 5, 3))
    run = nnx.jit(lambda head, pooled: head(pooled))
    logits = run(head, pooled)
    assert logits.shape == (4, 10, 10, 2)
    np.testing.assert_allclose(run(head, pooled[::-1]), logits[::-1], atol=1e-6)
    assert_jit_changes_nothing(lambda pooled: head(pooled), (pooled,), (pooled * 0,), atol=1e-5)
    assert_finite_gradients(lambda pooled: head(pooled), 0 * pooled)
    assert head(pooled[:0]).shape == (0, 10, 10, 2)
    assert len(head.convs) == 2
    assert (logits < 0).any(), "no activation after the last layer"
