"""ResNet, bottom-up: C1..C5 at strides 2, 4, 8, 16, 32 (He et al. 2015, table 1; FPN section 3).

From top to bottom: the block, the stage, the network. ResNet50 has (3, 4, 6, 3) bottlenecks, ResNet101 (3, 4, 23, 3).
The weight sources differ in the convolution of a bottleneck that downsamples (the first 1x1 in Matterport and
Detectron2, the 3x3 in torchvision) and in the padding of the max-pool.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskrcnn_jax.config import BackboneConfig
from maskrcnn_jax.layers import Conv, make_norm

BOTTLENECK_RATIO = 4  # a bottleneck's inner width is a quarter of its output (table 1)
MIN_SCANNED = 3  # this many blocks of equal structure, or more, are compiled as one loop


class Block(nnx.Module):
    """A residual block: `relu(branch(x) + shortcut(x))`.

    "bottleneck": 1x1, 3x3, 1x1; "basic": 3x3, 3x3. The shortcut is a 1x1 convolution where the shape changes. With
    group norm the branch's last scale is initialised to 0, so that a new block is the identity, which stabilises the
    training of deep networks (Goyal et al. 2017, section 5.1).

    >>> config = BackboneConfig(block="basic", norm="group", group_size=1)
    >>> block = Block(2, 2, stride=1, config=config, dtype="float32", rngs=nnx.Rngs(0))
    >>> block(jnp.array([[[[1.0, 2.0]]]])).ravel().tolist()
    [1.0, 2.0]
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, config: BackboneConfig, dtype: str, rngs: nnx.Rngs):
        def conv(i, o, size, s=1):
            return Conv(i, o, size, stride=s, bias=False, dtype=dtype, rngs=rngs)

        def norm(channels, scale=1.0):
            return make_norm(config.norm, channels, group_size=config.group_size, scale=scale)

        last_scale = 0.0 if config.norm == "group" else 1.0
        if config.block == "bottleneck":
            inner = outputs // BOTTLENECK_RATIO
            first, second = (stride, 1) if config.stride_on == "1x1" else (1, stride)
            convs = [conv(inputs, inner, 1, first), conv(inner, inner, 3, second), conv(inner, outputs, 1)]
            norms = [norm(inner), norm(inner), norm(outputs, last_scale)]
        else:
            convs = [conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3)]
            norms = [norm(outputs), norm(outputs, last_scale)]
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)  # nnx refuses a bare list of layers
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride) if reshapes else None
        self.shortcut_norm = norm(outputs) if reshapes else None

    def __call__(self, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
        branch = features
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            branch = jax.nn.relu(norm(conv(branch)))
        branch = self.norms[-1](self.convs[-1](branch))
        if self.shortcut is not None and self.shortcut_norm is not None:
            features = self.shortcut_norm(self.shortcut(features))
        return jax.nn.relu(branch + features)


class Stage(nnx.Module):
    """Blocks at one resolution; the first one downsamples.

    The others, if three or more have the same structure, run as a `lax.scan` over their stacked weights: XLA compiles
    one block instead of ResNet101's 22.

    >>> config = BackboneConfig(block="basic", norm="affine")
    >>> stage = Stage(2, 3, depth=2, stride=2, config=config, dtype="float32", rngs=nnx.Rngs(0))
    >>> stage(jnp.ones((1, 4, 6, 2))).shape
    (1, 2, 3, 3)
    """

    def __init__(
        self, inputs: int, outputs: int, *, depth: int, stride: int, config: BackboneConfig, dtype: str, rngs: nnx.Rngs
    ):
        self.blocks = nnx.List(
            Block(
                inputs if i == 0 else outputs,
                outputs,
                stride=stride if i == 0 else 1,
                config=config,
                dtype=dtype,
                rngs=rngs,
            )
            for i in range(depth)
        )

    def __call__(self, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
        others = [nnx.split(block) for block in self.blocks[1:]]
        if len(others) < MIN_SCANNED or any(graph != others[0][0] for graph, _ in others):
            for block in self.blocks:
                features = block(features)
            return features
        graph = others[0][0]
        weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in others))
        features = self.blocks[0](features)
        return jax.lax.scan(lambda features, state: (nnx.merge(graph, state)(features), None), features, weights)[0]


def space_to_depth(image: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 4*c"]:
    """Each 2x2 block of pixels becomes one cell with 4 * c channels, ordered (row, column, channel).

    >>> space_to_depth(jnp.arange(8.0).reshape(1, 2, 4, 1))[0, 0].tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    b, h, w, c = image.shape
    return image.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def max_pool(features: Float[Array, "b h w c"], padding: tuple[int, int]) -> Float[Array, "b h//2 w//2 c"]:
    """3x3 max-pool, stride 2, of non-negative values; `padding` (before, after) on both axes, (1, 1) or Keras' (0, 1).

    As maxima of shifted slices, first over rows, then over columns: the gradient of XLA's pooling is slow on CPUs.
    (Equal maxima share the gradient; XLA's pooling gives it to the first.)

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (1, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    padded = jnp.pad(features, ((0, 0), padding, padding, (0, 0)))
    rows, columns = features.shape[1] // 2, features.shape[2] // 2
    tall = [padded[:, i : i + 2 * rows - 1 : 2] for i in range(3)]
    highest = jnp.maximum(jnp.maximum(tall[0], tall[1]), tall[2])
    wide = [highest[:, :, j : j + 2 * columns - 1 : 2] for j in range(3)]
    return jnp.maximum(jnp.maximum(wide[0], wide[1]), wide[2])


class ResNet(nnx.Module):
    """Normalised images -> C1..C5; height and width divisible by 32.

    The stem is a 7x7 convolution of stride 2 ("conv7"), or a cheaper 3x3 one over blocks of 2x2 pixels
    ("space_to_depth", which sees 6x6 pixels); then a 3x3 max-pool of stride 2.

    >>> config = BackboneConfig(block="basic", depths=(1, 1, 1, 1), channels=(2, 3, 4, 5), stem_channels=2)
    >>> net = nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))
    >>> [c.shape[1:] for c in nnx.eval_shape(lambda net: net(jnp.zeros((1, 64, 32, 3))), net)]
    [(32, 16, 2), (16, 8, 2), (8, 4, 3), (4, 2, 4), (2, 1, 5)]
    """

    def __init__(self, config: BackboneConfig, *, dtype: str = "float32", rngs: nnx.Rngs):
        kind = config.stem
        size, inputs, stride = (7, 3, 2) if kind == "conv7" else (3, 12, 1)
        self.space_to_depth = kind == "space_to_depth"
        self.stem = Conv(inputs, config.stem_channels, size, stride=stride, bias=False, dtype=dtype, rngs=rngs)
        self.stem_norm = make_norm(config.norm, config.stem_channels, group_size=config.group_size)
        self.pool_padding = (1, 1) if config.pool_padding == "both" else (0, 1)
        widths = (config.stem_channels, *config.channels)
        self.stages = nnx.List(
            Stage(
                widths[i], widths[i + 1], depth=depth, stride=1 if i == 0 else 2, config=config, dtype=dtype, rngs=rngs
            )
            for i, depth in enumerate(config.depths)
        )

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """(C1, C2, C3, C4, C5); C1 is the output of the stem before its max-pool."""
        c1 = jax.nn.relu(self.stem_norm(self.stem(space_to_depth(images) if self.space_to_depth else images)))
        features = max_pool(c1, self.pool_padding)
        maps = [c1]
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return tuple(maps)
