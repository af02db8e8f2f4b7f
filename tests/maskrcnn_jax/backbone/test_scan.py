"""A loop over layers; that it computes what they do one by one, test_resnet.py shows with their gradients."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.backbone.scan import scan_layers
from maskrcnn_jax.layers import Conv

ONES = jnp.ones((1, 2, 2, 2))


def run(layer, features):
    return layer(features)


def test_in_order_and_of_none():
    """Kernels of 2 and 3 with biases of 1: ((1 x 2 + 1) x 3 + 1), summed over two equal channels."""
    layers = [Conv(2, 2, 1, rngs=nnx.Rngs(0)) for _ in range(2)]
    for layer, value in zip(layers, (2.0, 3.0), strict=True):
        layer.kernel[...], layer.bias[...] = jnp.full((1, 1, 2, 2), value / 2), jnp.ones(2)
    np.testing.assert_array_equal(scan_layers(layers, ONES, run), 10 * ONES)
    np.testing.assert_array_equal(scan_layers([], ONES, run), ONES)


def test_what_it_cannot_carry_is_refused():
    class Counting(nnx.Module):
        def __init__(self):
            self.scale, self.calls = nnx.Param(jnp.ones(2)), nnx.Variable(jnp.zeros(()))

    with pytest.raises(ValueError, match=r"layer 1 has variables besides parameters \(Variable\); .*scan_blocks=False"):
        scan_layers([Counting(), Counting()], ONES, run)
    layers = [Conv(2, 2, 3, rngs=nnx.Rngs(0)) for _ in range(3)]
    layers[1].padding = ((0, 2), (2, 0))  # changed by hand
    with pytest.raises(ValueError, match=r"layer 2 differs in structure from layer 1; .*scan_blocks=False"):
        scan_layers(layers, ONES, run)
