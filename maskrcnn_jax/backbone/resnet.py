"""ResNet, bottom-up: C1..C5 at strides 2, 4, 8, 16, 32 (He et al. 2015, table 1; FPN section 3).

From top to bottom: the two kinds of block, the stage, the network. ResNet18 and 34 are made of basic blocks, ResNet50
and 101 of bottlenecks. The weight sources differ in the convolution of a bottleneck that downsamples (the first 1x1 in
Matterport and Detectron2, the 3x3 in torchvision) and in the padding of the max-pool.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskrcnn_jax import checks
from maskrcnn_jax.backbone.scan import scan_layers
from maskrcnn_jax.config import BackboneConfig
from maskrcnn_jax.kernels import pooling
from maskrcnn_jax.layers import XLA, Compute, Conv, conv_norm, make_norm, relu

BOTTLENECK_RATIO = 4  # a bottleneck's inner width is a quarter of its output (table 1)


class Shortcut(nnx.Module):
    """What is added to a block's branch where the block changes the shape: a 1x1 convolution (He et al. 2015, eq. 2).

    >>> shortcut = Shortcut(2, 3, stride=2, config=BackboneConfig(), compute=XLA, rngs=nnx.Rngs(0))
    >>> shortcut(jnp.ones((1, 4, 6, 2))).shape
    (1, 2, 3, 3)
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, config: BackboneConfig, compute: Compute, rngs: nnx.Rngs
    ):
        self.conv = Conv(inputs, outputs, 1, stride=stride, bias=False, compute=compute, rngs=rngs)
        self.norm = make_norm(config.norm, outputs, group_size=config.group_size)

    def __call__(self, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
        return conv_norm(self.conv, self.norm, features)


class BasicBlock(nnx.Module):
    """`relu(branch(x) + shortcut(x))` with a branch of two 3x3 convolutions (He et al. 2015, figure 5 left).

    With group norm the branch's last scale is initialised to 0, so that a new block is the identity, which stabilises
    the training of deep networks (Goyal et al. 2017, section 5.1).

    >>> config = BackboneConfig(norm="group", group_size=1)
    >>> block = BasicBlock(2, 2, stride=1, config=config, compute=XLA, rngs=nnx.Rngs(0))
    >>> block(jnp.array([[[[1.0, 2.0]]]])).ravel().tolist()
    [1.0, 2.0]
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, config: BackboneConfig, compute: Compute, rngs: nnx.Rngs
    ):
        conv = partial(Conv, bias=False, compute=compute, rngs=rngs)
        norm = partial(make_norm, config.norm, group_size=config.group_size)
        self.conv1, self.norm1 = conv(inputs, outputs, 3, stride=stride), norm(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs, 3), norm(outputs, scale=0.0 if config.norm == "group" else 1.0)
        shortcut = partial(Shortcut, stride=stride, config=config, compute=compute, rngs=rngs)
        self.shortcut = shortcut(inputs, outputs) if stride != 1 or inputs != outputs else None
        self.kernels = compute.kernels

    def __call__(self, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
        branch = relu(conv_norm(self.conv1, self.norm1, features), self.kernels)
        branch = conv_norm(self.conv2, self.norm2, branch)
        return relu(branch + (features if self.shortcut is None else self.shortcut(features)), self.kernels)


class Bottleneck(nnx.Module):
    """`relu(branch(x) + shortcut(x))`; the branch narrows to a quarter of the channels (1x1), looks around (3x3) and
    widens again (1x1) (He et al. 2015, figure 5 right). The last scale is as in `BasicBlock`.

    >>> config = BackboneConfig(norm="group", group_size=1)
    >>> block = Bottleneck(4, 4, stride=1, config=config, compute=XLA, rngs=nnx.Rngs(0))
    >>> block(jnp.array([[[[1.0, 2.0, 3.0, 4.0]]]])).ravel().tolist()
    [1.0, 2.0, 3.0, 4.0]
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, config: BackboneConfig, compute: Compute, rngs: nnx.Rngs
    ):
        conv = partial(Conv, bias=False, compute=compute, rngs=rngs)
        norm = partial(make_norm, config.norm, group_size=config.group_size)
        inner = outputs // BOTTLENECK_RATIO
        first, second = (stride, 1) if config.stride_on == "1x1" else (1, stride)
        self.conv1, self.norm1 = conv(inputs, inner, 1, stride=first), norm(inner)
        self.conv2, self.norm2 = conv(inner, inner, 3, stride=second), norm(inner)
        self.conv3, self.norm3 = conv(inner, outputs, 1), norm(outputs, scale=0.0 if config.norm == "group" else 1.0)
        shortcut = partial(Shortcut, stride=stride, config=config, compute=compute, rngs=rngs)
        self.shortcut = shortcut(inputs, outputs) if stride != 1 or inputs != outputs else None
        self.kernels = compute.kernels

    def __call__(self, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
        branch = relu(conv_norm(self.conv1, self.norm1, features), self.kernels)
        branch = relu(conv_norm(self.conv2, self.norm2, branch), self.kernels)
        branch = conv_norm(self.conv3, self.norm3, branch)
        return relu(branch + (features if self.shortcut is None else self.shortcut(features)), self.kernels)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
CHOICES = {
    "block": tuple(BLOCKS),
    "stem": ("conv7", "space_to_depth"),
    "stride_on": ("1x1", "3x3"),
    "pool_padding": ("both", "end"),
}


class Stage(nnx.Module):
    """Blocks at one resolution; the first one downsamples.

    Two options of the config change how they run, not what they compute. `scan_blocks` runs all blocks but the first as
    one loop over their stacked weights, so that XLA compiles one block instead of ResNet101's 22. `remat_blocks` keeps
    only each block's input for the backward pass, which computes the block again (Chen et al. 2016, section 4); on CPUs
    it needs `scan_blocks`, since XLA's compiler merges the two computations of a block that stands alone.

    >>> config = BackboneConfig(block="basic", norm="affine")
    >>> stage = Stage(2, 3, depth=2, stride=2, config=config, compute=XLA, rngs=nnx.Rngs(0))
    >>> stage(jnp.ones((1, 4, 6, 2))).shape
    (1, 2, 3, 3)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        depth: int,
        stride: int,
        config: BackboneConfig,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        block = partial(BLOCKS[config.block], config=config, compute=compute, rngs=rngs)
        self.blocks = nnx.List(  # nnx refuses a bare list of layers
            block(inputs if i == 0 else outputs, outputs, stride=stride if i == 0 else 1) for i in range(depth)
        )
        self.scan_blocks, self.remat_blocks = config.scan_blocks, config.remat_blocks

    def __call__(self, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
        run = nnx.remat(_run) if self.remat_blocks else _run
        apart = 1 if self.scan_blocks else len(self.blocks)
        for block in self.blocks[:apart]:
            features = run(block, features)
        return scan_layers(self.blocks[apart:], features, run)


def _run(block: BasicBlock | Bottleneck, features: Float[Array, "b h w i"]) -> Float[Array, "b hh ww o"]:
    return block(features)


def space_to_depth(image: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 4*c"]:
    """Each 2x2 block of pixels becomes one cell with 4 * c channels, ordered (row, column, channel).

    >>> space_to_depth(jnp.arange(8.0).reshape(1, 2, 4, 1))[0, 0].tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    b, h, w, c = image.shape
    return image.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def max_pool(
    features: Float[Array, "b h w c"], padding: tuple[int, int], kernels: str = "xla"
) -> Float[Array, "b h//2 w//2 c"]:
    """3x3 max-pool of stride 2 (He et al. 2015, table 1).

    Args:
        features: the maps; height and width are even.
        padding: cells (before, after) on both axes: (1, 1), or (0, 1) as Keras has it.
        kernels: as in `Compute`.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (1, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    if kernels == "cpu":
        return pooling.max_pool(features, padding)
    if kernels == "gpu":
        return pooling.by_slices(features, padding)
    edges = ((0, 0), padding, padding, (0, 0))
    return jax.lax.reduce_window(features, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)


class ResNet(nnx.Module):
    """Normalised images -> five maps, C1..C5, of strides 2, 4, 8, 16 and 32.

    The stem is a 7x7 convolution of stride 2 ("conv7"), or a cheaper 3x3 one over blocks of 2x2 pixels
    ("space_to_depth", which sees 6x6 pixels); then a 3x3 max-pool of stride 2.

    >>> config = BackboneConfig(block="basic", depths=(1, 1, 1, 1), channels=(2, 3, 4, 5), stem_channels=2)
    >>> net = nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))
    >>> [c.shape[1:] for c in nnx.eval_shape(lambda net: net(jnp.zeros((1, 64, 32, 3))), net)]
    [(32, 16, 2), (16, 8, 2), (8, 4, 3), (4, 2, 4), (2, 1, 5)]
    """

    def __init__(self, config: BackboneConfig, *, compute: Compute = XLA, rngs: nnx.Rngs):
        """A network with random weights.

        Args:
            config: kind, number and channels of the blocks, and the conventions of a weight source.
            compute: in which type, and by which kernels.
            rngs: random keys.

        Raises:
            ValueError: a field of the config has a value that it cannot have.
        """
        for name, allowed in CHOICES.items():
            checks.one_of(f"BackboneConfig: {name}", getattr(config, name), allowed)
        size, inputs, stride = (7, 3, 2) if config.stem == "conv7" else (3, 12, 1)
        self.space_to_depth = config.stem == "space_to_depth"
        self.stem = Conv(inputs, config.stem_channels, size, stride=stride, bias=False, compute=compute, rngs=rngs)
        self.stem_norm = make_norm(config.norm, config.stem_channels, group_size=config.group_size)
        self.pool_padding = (1, 1) if config.pool_padding == "both" else (0, 1)
        stage = partial(Stage, config=config, compute=compute, rngs=rngs)
        widths = (config.stem_channels, *config.channels)
        self.stages = nnx.List(
            stage(widths[i], widths[i + 1], depth=depth, stride=1 if i == 0 else 2)
            for i, depth in enumerate(config.depths)
        )
        self.kernels = compute.kernels

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """The maps (C1, C2, C3, C4, C5); C1 is the output of the stem before its max-pool.

        Args:
            images: [b, h, w, 3], normalised; height and width are multiples of 32.

        Raises:
            ValueError: for images of another shape.
        """
        checks.shape("ResNet: images", images, "b h w 3")
        if images.shape[1] % 32 or images.shape[2] % 32:
            size = f"{images.shape[1]} x {images.shape[2]}"
            raise ValueError(f"ResNet: images are {size} pixels; height and width must be multiples of 32")
        stem = space_to_depth(images) if self.space_to_depth else images
        c1 = relu(conv_norm(self.stem, self.stem_norm, stem), self.kernels)
        features = max_pool(c1, self.pool_padding, self.kernels)
        maps = [c1]
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return tuple(maps)
