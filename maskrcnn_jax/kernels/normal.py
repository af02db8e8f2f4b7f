"""Normal random weights (He et al. 2015, section 2.2), with few programs for the many shapes of a network.

`jax.random.normal` compiles a program for each shape, of which a ResNet101 with FPN and heads has 41. Here the numbers
are drawn in a row as long as the next power of four, or as the next multiple of `LARGE`, and cut to the shape: 14
programs then, and the network is there after about 5 s instead of 11 s on two CPU cores. How long a row is does not
change the numbers at its start.
"""

import math
from functools import partial

import jax
from jaxtyping import Array, Float, Key

LARGE = 4**8  # with powers of four alone, half as many numbers again would be drawn for a ResNet101, and thrown away


def normal(key: Key[Array, ""], shape: tuple[int, ...], deviation: float) -> Float[Array, "..."]:
    """Independent float32 numbers of mean 0 and standard deviation `deviation`, in `shape`, which may be empty.

    >>> normal(jax.random.key(0), (2, 3), 0.01).shape
    (2, 3)
    """
    count, length = math.prod(shape), 1
    while length < min(count, LARGE):
        length *= 4
    length *= max(1, -(-count // length))
    return _cut(jax.random.normal(key, (length,)), deviation, shape)


@partial(jax.jit, static_argnames="shape")
def _cut(row, deviation, shape):
    return (row[: math.prod(shape)] * deviation).reshape(shape)
