"""Feature pyramid, top-down: P2..P6 from C2..C5 (Lin et al. 2017, section 3 and figure 3; Crystals 2021, figure 3).

A 1x1 lateral convolution reduces each C to c channels; from C5 down to C2 the coarser map is upsampled (nearest) and
added; a 3x3 convolution reduces the aliasing of the upsampling. P6, for the RPN's largest anchors only, is every second
cell of P5.
"""

import itertools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskrcnn_jax.layers import XLA, Compute, Conv
from maskrcnn_jax.structures import Pyramid


def upsample(features: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Nearest-neighbour upsampling: each cell becomes 2x2 equal cells.

    >>> upsample(jnp.array([[[[1.0], [2.0]]]]))[0, :, :, 0].tolist()
    [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    """
    b, h, w, c = features.shape
    return jnp.broadcast_to(features[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


class FPN(nnx.Module):
    """(C2, C3, C4, C5) -> P2..P6, all with the same number of channels.

    >>> fpn = FPN((2, 3, 4, 5), 6, rngs=nnx.Rngs(0))
    >>> maps = tuple(jnp.zeros((1, 16 >> i, 8 >> i, 2 + i)) for i in range(4))
    >>> [p.shape[1:] for p in nnx.eval_shape(lambda fpn: fpn(maps), fpn)]
    [(16, 8, 6), (8, 4, 6), (4, 2, 6), (2, 1, 6), (1, 1, 6)]
    """

    def __init__(self, inputs: tuple[int, ...], channels: int, *, compute: Compute = XLA, rngs: nnx.Rngs):
        """A pyramid with random weights.

        Args:
            inputs: channels of C2..C5.
            channels: of the pyramid.
            compute: in which type, and by which kernels.
            rngs: random keys.
        """
        self.laterals = nnx.List(Conv(i, channels, 1, scale=1.0, compute=compute, rngs=rngs) for i in inputs)
        self.outputs = nnx.List(Conv(channels, channels, 3, scale=1.0, compute=compute, rngs=rngs) for _ in inputs)

    def __call__(self, maps: tuple[Float[Array, "b _ _ _"], ...]) -> Pyramid:
        """P2..P6.

        Args:
            maps: C2..C5, each with half the rows and columns of the one before.

        Raises:
            ValueError: for maps of other sizes.
        """
        for i, (fine, coarse) in enumerate(itertools.pairwise(maps), 3):
            if fine.shape[1:3] != (2 * coarse.shape[1], 2 * coarse.shape[2]):
                cells = f"{coarse.shape[1]} x {coarse.shape[2]}"
                whole = f"{fine.shape[1]} x {fine.shape[2]}"
                raise ValueError(f"FPN: C{i} has {cells} cells, C{i - 1} {whole}; give twice as many of C{i - 1}")
        merged = [lateral(c) for lateral, c in zip(self.laterals, maps, strict=True)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = merged[i] + upsample(merged[i + 1])
        p2, p3, p4, p5 = (output(m) for output, m in zip(self.outputs, merged, strict=True))
        return Pyramid(p2, p3, p4, p5, p5[:, ::2, ::2])
