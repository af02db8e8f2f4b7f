"""RPN head: an objectness logit and four deltas per anchor (Faster R-CNN section 3.1, figure 3).

A 3x3 convolution and two 1x1 ones, shared by all levels. One logit per anchor: Matterport's two-way softmax over
(background, foreground) is exactly the sigmoid of the difference of the two logits.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskrcnn_jax.layers import XLA, Compute, Conv, at_least_float32
from maskrcnn_jax.structures import Pyramid


class RPNHead(nnx.Module):
    """An objectness logit and four deltas for every anchor, in the order of `pyramid_anchors`.

    Levels of 4x4, 2x2 and three of 1x1 cells, with three anchors per cell: 69 in all.

    >>> head = RPNHead(2, 4, anchors_per_cell=3, rngs=nnx.Rngs(0))
    >>> levels = Pyramid(*(jnp.ones((1, side, side, 2)) for side in (4, 2, 1, 1, 1)))
    >>> logits, deltas = nnx.eval_shape(lambda head: head(levels), head)
    >>> logits.shape, deltas.shape
    ((1, 69), (1, 69, 4))
    """

    def __init__(self, inputs: int, channels: int, *, anchors_per_cell: int, compute: Compute = XLA, rngs: nnx.Rngs):
        """A head with random weights.

        Args:
            inputs: channels of the pyramid.
            channels: of the shared convolution.
            anchors_per_cell: as many as there are aspect ratios.
            compute: in which type, and by which kernels.
            rngs: random keys.
        """
        self.shared = Conv(inputs, channels, 3, compute=compute, rngs=rngs)
        # Small weights, so that the first proposals are the anchors and the first objectness is about 0.5.
        self.objectness = Conv(channels, anchors_per_cell, 1, scale=0.01, compute=compute, rngs=rngs)
        self.deltas = Conv(channels, 4 * anchors_per_cell, 1, scale=0.01, compute=compute, rngs=rngs)

    def __call__(self, pyramid: Pyramid) -> tuple[Float[Array, "b a"], Float[Array, "b a 4"]]:
        """Objectness logits [b, a] and deltas (dx, dy, dw, dh) [b, a, 4] of the anchors of all five levels."""
        b = pyramid.p2.shape[0]
        logits, deltas = [], []
        for level in pyramid:
            shared = jax.nn.relu(self.shared(level))
            logits.append(self.objectness(shared).reshape(b, -1))
            deltas.append(self.deltas(shared).reshape(b, -1, 4))
        return at_least_float32(jnp.concatenate(logits, 1)), at_least_float32(jnp.concatenate(deltas, 1))
