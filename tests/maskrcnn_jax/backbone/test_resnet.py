import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.backbone.resnet import (
    BLOCKS,
    BasicBlock,
    Bottleneck,
    ResNet,
    Stage,
    max_pool,
    space_to_depth,
)
from maskrcnn_jax.config import BackboneConfig, MaskRCNNConfig
from maskrcnn_jax.layers import XLA
from tests import oracles, recorded
from tests.traced import assert_jit_changes_nothing

SMALL = BackboneConfig(depths=(1, 1, 2, 1), channels=(16, 32, 48, 64), stem_channels=8, group_size=4)
run = nnx.jit(lambda module, features: module(features))


@pytest.mark.parametrize("preset", ["paper", "tiny", "torchvision 50", "torchvision 34"])
def test_shapes_and_depth_of_the_presets(preset):
    name, _, depth = preset.partition(" ")
    whole = MaskRCNNConfig.torchvision_coco(int(depth)) if depth else getattr(MaskRCNNConfig, name)()
    config = whole.backbone
    net = nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))
    shapes = [m.shape for m in nnx.eval_shape(lambda net: net(jnp.zeros((1, 64, 128, 3))), net)]
    sides = [(32, 64), (16, 32), (8, 16), (4, 8), (2, 4)]
    assert shapes == [(1, *s, c) for s, c in zip(sides, (config.stem_channels, *config.channels), strict=True)]
    assert [len(stage.blocks) for stage in net.stages] == list(config.depths)
    assert net.stages[0].blocks[0].shortcut is not None or config.block == "basic"
    kernels = [v.size for path, v in nnx.to_flat_state(nnx.state(net)) if path[-1] == "kernel"]
    if preset == "torchvision 34":  # as published: 21.3 million with the norms
        assert (len(kernels), sum(kernels)) == (36, 21_267_648)
    if preset == "paper":  # as published: torchvision's 44.5 million less the classifier and the norms
        assert (len(kernels), sum(kernels)) == (104, 42_394_816)


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_block_equals_the_oracle(block, stride_on):
    config = dataclasses.replace(SMALL, block=block, stride_on=stride_on, norm="affine")
    module = BLOCKS[block](8, 16, stride=2, config=config, compute=XLA, rngs=nnx.Rngs(0))
    strides = {"basic": (2, 1), "1x1": (2, 1, 1), "3x3": (1, 2, 1)}[block if block == "basic" else stride_on]
    convs = [getattr(module, f"conv{i + 1}") for i in range(len(strides))]
    norms = [getattr(module, f"norm{i + 1}") for i in range(len(strides))]
    for i, norm in enumerate([*norms, module.shortcut.norm]):
        norm.scale[...] = 1.0 + 0.1 * jnp.arange(norm.scale[...].size)
        norm.shift[...] = 0.1 * i - 0.05 * jnp.arange(norm.scale[...].size)
    features = np.asarray(jax.random.normal(jax.random.key(0), (6, 8, 8)))

    def layer(features, conv, norm, stride):
        pad = conv.kernel[...].shape[0] // 2
        result = oracles.conv2d(features, np.asarray(conv.kernel[...]), stride, ((pad, pad),) * 2)
        return result * np.asarray(norm.scale[...]) + np.asarray(norm.shift[...])

    branch = features
    for i, stride in enumerate(strides):
        branch = layer(branch, convs[i], norms[i], stride)
        branch = np.maximum(branch, 0) if i < len(strides) - 1 else branch
    expected = np.maximum(branch + layer(features, module.shortcut.conv, module.shortcut.norm, 2), 0)
    np.testing.assert_allclose(run(module, features[None])[0], expected, atol=1e-4)


def stage_of(depth, scan=False, remat=False):
    config = dataclasses.replace(SMALL, norm="group", scan_blocks=scan, remat_blocks=remat)
    return Stage(8, 16, depth=depth, stride=2, config=config, compute=XLA, rngs=nnx.Rngs(0))


def total(stage, features):
    result = stage(features)
    return (result**2).sum(), result


def test_scanned_and_rematerialised_blocks_compute_the_same():
    features = jax.random.normal(jax.random.key(0), (2, 8, 12, 8))

    def everything(**options):
        stage = stage_of(4, **options)
        for i, block in enumerate(stage.blocks):  # no two alike, and none the identity
            block.norm3.scale[...] = jnp.full(16, 0.5 + 0.1 * i)
        (_, result), gradients = nnx.jit(nnx.value_and_grad(total, argnums=(0, 1), has_aux=True))(stage, features)
        return result, jax.tree.leaves(gradients)

    expected, gradients = everything()
    for options in ({"scan": True}, {"remat": True}, {"scan": True, "remat": True}):
        result, found = everything(**options)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(found, gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_a_scan_traces_two_blocks_whatever_the_depth(monkeypatch):
    calls, whole = [], Bottleneck.__call__
    monkeypatch.setattr(Bottleneck, "__call__", lambda block, features: calls.append(1) or whole(block, features))
    for scan, traced in ((True, 2), (False, 6)):
        calls.clear()
        stage = nnx.eval_shape(lambda scan=scan: stage_of(6, scan=scan))
        nnx.eval_shape(lambda stage, features: stage(features), stage, jnp.zeros((1, 4, 4, 8)))
        assert len(calls) == traced


def test_rematerialisation_saves_memory():
    """Of a scan: XLA's compiler for CPUs does not keep single blocks from being computed together."""

    def memory(**options):
        graph, weights = nnx.split(nnx.eval_shape(lambda: stage_of(8, **options)))
        gradient = jax.jit(jax.grad(lambda weights, features: total(nnx.merge(graph, weights), features)[0]))
        compiled = gradient.lower(weights, jax.ShapeDtypeStruct((2, 32, 32, 8), jnp.float32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(scan=True, remat=True) < 0.7 * min(memory(), memory(scan=True))


def test_all_derivatives_pass_through_the_network():
    """In one direction, the sum of all maps: once and twice, forward and backward."""
    config = dataclasses.replace(SMALL, norm="group", block="basic", depths=(1, 1, 0, 0))
    net = ResNet(config, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (2, 1, 32, 32, 3))

    def along(t):
        return sum((m**2).mean() for m in net(images[0] + t * images[1]))

    @jax.jit
    def derivatives(t):
        _, forward = jax.jvp(along, (t,), (1.0,))
        _, linear = jax.linearize(along, t)
        return (forward, linear(1.0), jax.grad(along)(t)), (jax.hessian(along)(t), jax.grad(jax.grad(along))(t))

    once, twice = derivatives(0.3)
    np.testing.assert_allclose(once, once[0], rtol=1e-3)
    np.testing.assert_allclose(twice, twice[0], rtol=1e-3)
    assert abs(once[0]) > 1e-3
    assert abs(twice[0]) > 1e-3


def test_a_fresh_block_with_group_norm_is_the_identity():
    config = dataclasses.replace(SMALL, norm="group")
    module = BasicBlock(16, 16, stride=1, config=config, compute=XLA, rngs=nnx.Rngs(0))
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
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    c1, c2, *_ = run(net, images)
    stem = oracles.conv2d(np.asarray(images[0]), np.asarray(net.stem.kernel[...]), 2, ((3, 3), (3, 3)))
    np.testing.assert_allclose(c1[0], np.maximum(stem, 0), atol=1e-4)
    before = 1 if padding == "both" else 0
    padded = np.pad(np.asarray(c1[0]), ((before, 1), (before, 1), (0, 0)))
    expected = [[padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(8)] for i in range(8)]
    np.testing.assert_array_equal(c2[0], expected)


def test_the_pool_of_keras():
    g = recorded.load("matterport_layers")
    np.testing.assert_array_equal(max_pool(jnp.asarray(g["kp_x"]), (0, 1)), g["kp_maxpool3s2_same_out"])


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
