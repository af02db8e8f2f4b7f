import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.backbone.resnet import Block, ResNet, Stage, max_pool, space_to_depth
from maskrcnn_jax.config import BackboneConfig, MaskRCNNConfig
from tests import oracles, recorded
from tests.traced import assert_jit_changes_nothing

SMALL = BackboneConfig(depths=(1, 1, 2, 1), channels=(16, 32, 48, 64), stem_channels=8, group_size=4)
run = nnx.jit(lambda module, features: module(features))


@pytest.mark.parametrize("preset", [MaskRCNNConfig.paper, MaskRCNNConfig.torchvision_coco, MaskRCNNConfig.tiny])
def test_shapes_and_depth_of_the_presets(preset):
    config = preset().backbone
    net = nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))
    shapes = [m.shape for m in nnx.eval_shape(lambda net: net(jnp.zeros((1, 64, 128, 3))), net)]
    sides = [(32, 64), (16, 32), (8, 16), (4, 8), (2, 4)]
    assert shapes == [(1, *s, c) for s, c in zip(sides, (config.stem_channels, *config.channels), strict=True)]
    assert [len(stage.blocks) for stage in net.stages] == list(config.depths)
    assert net.stages[0].blocks[0].shortcut_norm is not None or config.block == "basic"
    if preset == MaskRCNNConfig.paper:  # as published: torchvision's 44.5 million less the classifier and the norms
        kernels = [v.size for path, v in nnx.to_flat_state(nnx.state(net)) if path[-1] == "kernel"]
        assert (len(kernels), sum(kernels)) == (104, 42_394_816)


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_block_equals_the_oracle(block, stride_on):
    config = dataclasses.replace(SMALL, block=block, stride_on=stride_on, norm="affine")
    module = Block(8, 16, stride=2, config=config, dtype="float32", rngs=nnx.Rngs(0))
    for i, norm in enumerate([*module.norms, module.shortcut_norm]):
        norm.scale[...] = 1.0 + 0.1 * jnp.arange(norm.scale[...].size)
        norm.shift[...] = 0.1 * i - 0.05 * jnp.arange(norm.scale[...].size)
    features = np.asarray(jax.random.normal(jax.random.key(0), (6, 8, 8)))

    def layer(features, conv, norm, stride):
        pad = conv.kernel[...].shape[0] // 2
        result = oracles.conv2d(features, np.asarray(conv.kernel[...]), stride, ((pad, pad),) * 2)
        return result * np.asarray(norm.scale[...]) + np.asarray(norm.shift[...])

    strides = {"basic": (2, 1), "1x1": (2, 1, 1), "3x3": (1, 2, 1)}[block if block == "basic" else stride_on]
    branch = features
    for i, stride in enumerate(strides):
        branch = layer(branch, module.convs[i], module.norms[i], stride)
        branch = np.maximum(branch, 0) if i < len(strides) - 1 else branch
    expected = np.maximum(branch + layer(features, module.shortcut, module.shortcut_norm, 2), 0)
    np.testing.assert_allclose(run(module, features[None])[0], expected, atol=1e-4)


@pytest.mark.parametrize("norm", ["affine", "group"])
def test_equal_blocks_are_traced_once_and_run_one_after_the_other(norm, monkeypatch):
    config = dataclasses.replace(SMALL, block="bottleneck", norm=norm)
    stage = Stage(8, 16, depth=4, stride=2, config=config, dtype="float32", rngs=nnx.Rngs(0))
    for i, block in enumerate(stage.blocks):  # no two alike, and none the identity
        block.norms[-1].scale[...] = jnp.full(16, 0.5 + 0.1 * i)
    features = jax.random.normal(jax.random.key(0), (2, 8, 12, 8))

    def one_after_the_other(stage, features):
        for block in stage.blocks:
            features = block(features)
        return features

    @partial(nnx.jit, static_argnums=0)
    @partial(nnx.value_and_grad, argnums=(1, 2), has_aux=True)
    def features_and_gradients(way, stage, features):
        result = way(stage, features)
        return (result**2).sum(), result

    ((_, ours), gradients), ((_, theirs), expected) = (
        features_and_gradients(way, stage, features) for way in (Stage.__call__, one_after_the_other)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())

    calls = []
    whole = Block.__call__
    monkeypatch.setattr(Block, "__call__", lambda block, features: calls.append(1) or whole(block, features))
    nnx.eval_shape(lambda stage, features: stage(features), stage, features)
    assert len(calls) == 2

    stage.blocks[3].convs[1].padding = ((0, 2), (2, 0))  # one that somebody has changed is run as it is
    theirs = nnx.jit(one_after_the_other)(stage, features)
    np.testing.assert_allclose(run(stage, features), theirs, rtol=1e-4, atol=1e-5)
    calls.clear()
    nnx.eval_shape(lambda stage, features: stage(features), stage, features)
    assert len(calls) == 4


def test_a_fresh_block_with_group_norm_is_the_identity():
    config = dataclasses.replace(SMALL, norm="group")
    module = Block(16, 16, stride=1, config=config, dtype="float32", rngs=nnx.Rngs(0))
    features = jnp.abs(jax.random.normal(jax.random.key(0), (2, 4, 4, 16)))
    np.testing.assert_array_equal(run(module, features), features)
    assert module.shortcut is None


def test_space_to_depth_by_hand():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    cells = space_to_depth(image)
    assert cells.shape == (1, 2, 2, 4)
    assert cells[0, 0, 1].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("padding", ["both", "end"])
def test_stem_and_pool(padding):
    """Padding "both" is torch's, "end" Keras' SAME on an even side; checked by where one bright cell ends up."""
    config = dataclasses.replace(SMALL, depths=(0, 0, 0, 0), pool_padding=padding)
    net = ResNet(config, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    c1, c2, *_ = run(net, images)
    stem = oracles.conv2d(np.asarray(images[0]), np.asarray(net.stem.kernel[...]), 2, ((3, 3), (3, 3)))
    np.testing.assert_allclose(c1[0], np.maximum(stem, 0), atol=1e-4)
    before = 1 if padding == "both" else 0
    padded = np.pad(np.asarray(c1[0]), ((before, 1), (before, 1), (0, 0)))
    expected = [[padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(4)] for i in range(4)]
    np.testing.assert_array_equal(c2[0], expected)


def test_the_pool_of_keras():
    """Its input has negative values, which ours, after a ReLU, never sees: lifted above 0 and let down again."""
    g = recorded.load("matterport_layers")
    lift = np.float32(16)
    assert np.abs(g["kp_x"]).max() < lift
    pooled = max_pool(jnp.asarray(g["kp_x"] + lift), (0, 1)) - lift
    np.testing.assert_allclose(pooled, g["kp_maxpool3s2_same_out"], atol=2e-6)


@pytest.mark.parametrize("norm", ["affine", "group"])
def test_gradients_are_finite_and_images_independent(norm):
    config = dataclasses.replace(SMALL, norm=norm, stem="space_to_depth", block="basic", depths=(1, 1, 0, 0))
    net = ResNet(config, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3)).at[1].set(0.0)
    both = run(net, images)
    for together, alone in zip(both, run(net, images[::-1]), strict=True):
        np.testing.assert_allclose(together, alone[::-1], atol=1e-5)
    assert_jit_changes_nothing(lambda images: net(images), (images,), (images[::-1] * 3,), rtol=1e-4, atol=1e-4)
    gradient = nnx.jit(nnx.grad(lambda net, images: sum((m**2).mean() for m in net(images))))(net, images)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
