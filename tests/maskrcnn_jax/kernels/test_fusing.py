"""Bias and ReLU for libraries, against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.kernels import fusing
from maskrcnn_jax.layers import add_bias, relu

FEATURES, PULL = jnp.float32(np.random.default_rng(0).normal(size=(2, 2, 5, 5, 3)))
BIAS = jnp.array([-0.5, 0.0, 0.5])


def with_gradients(function, *arguments, pull=PULL):
    out, back = jax.vjp(function, *arguments)
    return out, *back(pull)


def test_equal_the_plain_forms_with_their_gradients():
    for ours, plain in ((fusing.relu, relu), (lambda x: fusing.add_bias(x, BIAS), lambda x: add_bias(x, BIAS))):
        for one, other in zip(with_gradients(ours, FEATURES), with_gradients(plain, FEATURES), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    ours, plain = (with_gradients(add, FEATURES, BIAS)[2] for add in (fusing.add_bias, add_bias))
    np.testing.assert_allclose(ours, plain, rtol=1e-5)


def test_gradient_at_zero_and_of_nan():
    """None at 0, as `jax.nn.relu` has it; a NaN stays one."""
    assert jax.grad(lambda x: fusing.relu(x).sum())(jnp.array([-1.0, 0.0, 1.0])).tolist() == [0.0, 0.0, 1.0]
    assert np.isnan(fusing.relu(jnp.array(jnp.nan)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_types(dtype):
    """Results have the features' type, and so have their gradients; the bias's is its own and summed in it."""
    features = jnp.ones((64, 64, 1), dtype)
    out, of_features, of_bias = with_gradients(fusing.add_bias, features, jnp.ones(1), pull=features)
    assert (out.dtype, of_features.dtype, of_bias.dtype) == (dtype, dtype, jnp.float32)
    assert of_bias.tolist() == [4096.0]
    assert jax.grad(lambda x: fusing.relu(x).sum())(features).dtype == dtype
