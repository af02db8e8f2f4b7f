"""Box head: class logits and box deltas from a RoI's pooled features (FPN section 4.2, two hidden layers).

Matterport's 7x7 VALID convolution over 7x7 bins is a linear layer over the flattened bins, with its norms folded in.
"""

import math
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskrcnn_jax import checks
from maskrcnn_jax.config import BoxHeadConfig
from maskrcnn_jax.layers import XLA, Compute, random_weights


# At module level, not a closure: heads of equal shape then have equal graph definitions, and share a compiled program.
def _promote(arrays: Any, /, *, dtype: Any = None) -> Any:
    """The bias keeps its type: its gradient sums over all RoIs (see layers.add_bias)."""
    features, kernel, bias = arrays
    return features.astype(dtype), kernel.astype(dtype), bias


class BoxHead(nnx.Module):
    """Two hidden linear layers, and one each for class logits and box deltas.

    Each class has deltas of its own, or, with `config.class_agnostic`, all have the same (R-FCN section 2; Detectron2).

    >>> head = BoxHead(2, BoxHeadConfig(size=3, hidden=8), num_classes=4, rngs=nnx.Rngs(0))
    >>> logits, deltas = nnx.eval_shape(lambda head: head(jnp.ones((5, 3, 3, 2))), head)
    >>> logits.shape, deltas.shape
    ((5, 4), (5, 4, 4))
    """

    def __init__(
        self, channels: int, config: BoxHeadConfig, *, num_classes: int, compute: Compute = XLA, rngs: nnx.Rngs
    ):
        """A head with random weights.

        Args:
            channels: of the pooled features.
            config: bins per side, and neurons of a hidden layer.
            num_classes: k, background included.
            compute: in which type, and by which kernels.
            rngs: random keys.
        """

        def normal_init(deviation):
            return lambda key, shape, _: random_weights(key, shape, deviation, compute.kernels)

        linear = partial(nnx.Linear, dtype=jnp.dtype(compute.dtype), promote_dtype=cast(Any, _promote), rngs=rngs)
        inputs, hidden = channels * config.size**2, config.hidden
        # Standard deviations of He et al. 2015 before a ReLU, and of Fast R-CNN section 2.3 for the outputs.
        self.first = linear(inputs, hidden, kernel_init=normal_init(math.sqrt(2 / inputs)))
        self.second = linear(hidden, hidden, kernel_init=normal_init(math.sqrt(2 / hidden)))
        self.classes = linear(hidden, num_classes, kernel_init=normal_init(0.01))
        self.deltas = linear(hidden, 4 * (1 if config.class_agnostic else num_classes), kernel_init=normal_init(0.001))
        self.num_classes, self.pooled_shape = num_classes, f"r {config.size} {config.size} {channels}"

    def __call__(self, pooled: Float[Array, "r o o c"]) -> tuple[Float[Array, "r k"], Float[Array, "r k 4"]]:
        """Class logits and box deltas of every RoI, in the order (dx, dy, dw, dh) of `boxes/coding.py`.

        Args:
            pooled: [r, size, size, channels], flattened here as (row, column, channel).

        Raises:
            ValueError: for another shape.
        """
        checks.shape("BoxHead: pooled", pooled, self.pooled_shape)
        r, rows, columns, c = pooled.shape
        features = jax.nn.relu(self.first(pooled.reshape(r, rows * columns * c)))  # -1 would be ambiguous for r = 0
        features = jax.nn.relu(self.second(features))
        logits, deltas = self.classes(features), self.deltas(features)  # of the biases' type
        return logits, jnp.broadcast_to(deltas.reshape(r, self.deltas.out_features // 4, 4), (r, self.num_classes, 4))
