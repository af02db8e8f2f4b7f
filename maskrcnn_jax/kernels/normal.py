"""Normally distributed weights (He et al. 2015, section 2.2), with few compiled programs for many shapes.

`jax.random.normal` compiles a program per shape, which takes long on CPUs. Here the numbers, the same ones, are drawn
as a vector whose length is the next power of four, and sliced to the shape.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def normal(key: Key[Array, ""], shape: tuple[int, ...], deviation: float) -> Float[Array, "..."]:
    """Independent float32 samples of mean 0 and standard deviation `deviation`; `shape` may be empty.

    >>> normal(jax.random.key(0), (2, 3), 0.01).shape
    (2, 3)
    """
    length = 1
    while length < math.prod(shape):
        length *= 4
    return _reshaped(jax.random.normal(key, (length,), jnp.float32), deviation, shape)


@partial(jax.jit, static_argnames="shape")
def _reshaped(vector, deviation, shape):
    return (vector[: math.prod(shape)] * deviation).reshape(shape)
