import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.roi.mask_head import Deconv2x2, MaskHead
from tests import recorded


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


def test_shape_and_independence_of_rois():
    head = MaskHead(3, channels=8, layers=2, num_classes=2, rngs=nnx.Rngs(0))
    pooled = jax.random.normal(jax.random.key(0), (4, 5, 5, 3))
    run = nnx.jit(lambda head, pooled: head(pooled))
    logits = run(head, pooled)
    assert logits.shape == (4, 10, 10, 2)
    np.testing.assert_allclose(run(head, pooled[::-1]), logits[::-1], atol=1e-6)
    np.testing.assert_allclose(head(pooled), logits, atol=1e-5)
    assert len(head.convs) == 2
    assert (logits < 0).any(), "no activation after the last layer"
