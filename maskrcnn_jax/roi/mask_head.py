"""Mask head: a binary mask per class from a RoI's pooled features (Mask R-CNN section 3 and figure 4 right).

3x3 convolutions, a 2x2 transposed convolution of stride 2 that doubles the resolution, and a 1x1 convolution to one
mask per class. Classes do not compete: the box head decides which mask is used.
"""

import math
from typing import cast

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from maskrcnn_jax.config import MaskHeadConfig
from maskrcnn_jax.layers import XLA, Compute, Conv, add_bias, at_least_float32, random_weights, relu


class Deconv2x2(nnx.Module):
    """Transposed convolution, 2x2 with stride 2. Its windows do not overlap, so it is a product of each cell with the
    kernel's four entries, and a depth-to-space. Kernel [2, 2, in, out].

    Each cell becomes 2x2 cells, its value times the kernel's four entries:

    >>> double = Deconv2x2(1, 1, rngs=nnx.Rngs(0))
    >>> double.kernel[...] = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(2, 2, 1, 1)
    >>> double(jnp.array([1.0, 10.0]).reshape(1, 1, 2, 1))[0, :, :, 0].tolist()
    [[1.0, 2.0, 10.0, 20.0], [3.0, 4.0, 30.0, 40.0]]
    """

    def __init__(self, inputs: int, outputs: int, *, compute: Compute = XLA, rngs: nnx.Rngs):
        # He et al. 2015: each output cell sees one kernel entry, so the fan-in is the number of input channels.
        deviation = math.sqrt(2 / inputs)
        self.kernel = nnx.Param(random_weights(rngs.params(), (2, 2, inputs, outputs), deviation, compute.kernels))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.compute = compute

    def __call__(self, features: Float[Array, "r h w i"]) -> Float[Array, "r 2*h 2*w o"]:
        return depth_to_space(self.cells(features))

    def cells(self, features: Float[Array, "r h w i"]) -> Float[Array, "r h w 2 2 o"]:
        """The output before depth-to-space: the 2x2 cells that each cell becomes."""
        features, kernel = features.astype(self.compute.dtype), self.kernel[...].astype(self.compute.dtype)
        return add_bias(jnp.einsum("rhwi,yxio->rhwyxo", features, kernel), self.bias[...], self.compute.kernels)


def depth_to_space(cells: Float[Array, "r h w 2 2 c"]) -> Float[Array, "r 2*h 2*w c"]:
    """Put the 2x2 output cells of each cell in their place.

    >>> depth_to_space(jnp.arange(8.0).reshape(1, 1, 2, 2, 2, 1))[0, :, :, 0].tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    r, h, w, _, _, c = cells.shape
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(r, 2 * h, 2 * w, c)


class MaskHead(nnx.Module):
    """Convolutions, a doubling of the resolution, and a mask for each class: [r, o, o, c] -> [r, 2 o, 2 o, k].

    >>> head = MaskHead(2, MaskHeadConfig(channels=4, layers=1), num_classes=3, rngs=nnx.Rngs(0))
    >>> nnx.eval_shape(lambda head: head(jnp.ones((5, 14, 14, 2))), head).shape
    (5, 28, 28, 3)
    """

    def __init__(
        self, inputs: int, config: MaskHeadConfig, *, num_classes: int, compute: Compute = XLA, rngs: nnx.Rngs
    ):
        """A head with random weights.

        Args:
            inputs: channels of the pooled features.
            config: channels and number of the 3x3 convolutions.
            num_classes: k, background included.
            compute: in which type, and by which kernels.
            rngs: random keys.
        """
        channels = config.channels
        self.convs = nnx.List(
            Conv(inputs if i == 0 else channels, channels, 3, compute=compute, rngs=rngs) for i in range(config.layers)
        )
        self.double = Deconv2x2(channels, channels, compute=compute, rngs=rngs)
        self.masks = Conv(channels, num_classes, 1, scale=0.1, compute=compute, rngs=rngs)

        self.kernels = compute.kernels

    def __call__(
        self, pooled: Float[Array, "r o o c"], classes: Int[Array, " r"] | None = None
    ) -> Float[Array, "r m m k"] | Float[Array, "r m m"]:
        """Mask logits of every RoI; the sigmoid of one is a probability.

        Args:
            pooled: [r, size, size, inputs].
            classes: of the RoIs. With them, only the mask of each RoI's class.
        """
        features = pooled
        for conv in self.convs:
            features = relu(conv(features), self.kernels)
        # Depth-to-space commutes with ReLU and 1x1 convolutions; k masks are less to rearrange than all the channels.
        cells = relu(self.double.cells(features), self.kernels)
        if classes is not None and self.kernels == "gpu":
            return self._of_classes(cells, classes)
        r, h, w, _, _, c = cells.shape
        logits = self.masks(cells.reshape(r, h, 4 * w, c))
        masks = at_least_float32(depth_to_space(logits.reshape(r, h, w, 2, 2, logits.shape[-1])))
        if classes is None:
            return masks
        return jnp.take_along_axis(masks, classes[:, None, None, None], axis=-1)[..., 0]

    def _of_classes(self, cells: Array, classes: Array) -> Array:
        """The masks of the RoIs' own classes, without computing the others."""
        kernel, bias = self.masks.kernel[0, 0].T[classes], cast(nnx.Param, self.masks.bias)[classes]
        dtype = jnp.promote_types(cells.dtype, jnp.float32)
        logits = jnp.einsum("rhwyxc,rc->rhwyx", cells, kernel.astype(cells.dtype), preferred_element_type=dtype)
        return depth_to_space((logits + bias[:, None, None, None, None])[..., None])[..., 0]
