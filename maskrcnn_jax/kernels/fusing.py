"""Bias and ReLU in the form that lets a GPU's library (cuDNN) take convolution, bias, sum and ReLU as one kernel;
`kernels="gpu"` in the config chooses them.

XLA hands these over together only where all are of the convolution's type, and where nothing but the ReLU uses the sum.
A bias that is added in float32 does not fit, nor does a ReLU whose gradient looks at its input.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def add_bias(features: Float[Array, "*n c"], bias: Float[Array, " c"]) -> Float[Array, "*n c"]:
    """Features plus a bias per channel, added in the features' type.

    The bias's gradient, a sum over a whole map, is nevertheless of float32 at least: 256 + 1 is 256 in bfloat16
    (Micikevicius et al. 2018, section 3).

    >>> ones = jnp.ones((64, 64, 1), jnp.bfloat16)
    >>> jax.grad(lambda bias: add_bias(ones, bias).astype(jnp.float32).sum())(jnp.zeros(1)).tolist()
    [4096.0]
    """
    return features + bias.astype(features.dtype)


def _add_bias_backward(bias, gradient):
    axes = tuple(range(gradient.ndim - 1))
    return gradient, gradient.astype(bias.dtype).sum(axes)


add_bias.defvjp(lambda features, bias: (add_bias(features, bias), bias), _add_bias_backward)


@jax.custom_vjp
def relu(features: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """max(x, 0) (He et al. 2015, eq. 1), with a gradient that looks at the result.

    >>> jax.grad(lambda x: relu(x).sum())(jnp.array([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 1.0]
    """
    return jnp.maximum(features, 0)


def _relu_forward(features):
    result = relu(features)
    return result, result


relu.defvjp(_relu_forward, lambda result, gradient: (jnp.where(result != 0, gradient, 0),))
