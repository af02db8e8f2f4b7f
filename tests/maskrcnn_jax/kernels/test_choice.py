"""The kernels for CPUs, those for GPUs and XLA's compute the same network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.config import MaskRCNNConfig, Sampling
from maskrcnn_jax.model import MaskRCNN
from tests.small import SMALL, small_batch, small_model


def everything(model: MaskRCNN):
    """Features and outputs of the RPN, and one number that depends on them all."""
    images, _ = small_batch(b=4)
    pyramid = model.features(images)[1]
    parts = (pyramid, model.rpn(pyramid))
    return sum(jnp.mean(part**2) for part in jax.tree.leaves(parts)), parts


def test_both_compute_the_same_network():
    """Values and gradients, where all the CPU's ways are taken: Winograd's for P2, of 64 tiles and 32 channels."""
    config = dataclasses.replace(SMALL, fpn_channels=32)
    fast, plain = (small_model(config=dataclasses.replace(config, kernels=kernels)) for kernels in ("cpu", "xla"))
    nnx.update(fast, nnx.state(plain))
    run = nnx.jit(nnx.value_and_grad(everything, has_aux=True))
    for our, their in zip(jax.tree.leaves(run(fast)), jax.tree.leaves(run(plain)), strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=2e-4 * np.abs(their).max())


FOLDED = {"block": "bottleneck", "norm": "affine", "depths": (1, 2, 1, 1)}


@pytest.mark.parametrize(("backbone", "reduce"), [(FOLDED, "max"), ({}, "mean")])
def test_forms_for_gpus_train_the_same_network(backbone, reduce):
    """Losses, all gradients, and detections with their masks; norms that are folded into kernels, and those that are
    not.
    """
    roi = dataclasses.replace(SMALL.roi, pooling=Sampling(sampling_ratio=2, reduce=reduce))
    config = dataclasses.replace(SMALL, roi=roi, backbone=dataclasses.replace(SMALL.backbone, **backbone))
    ours, plain = (small_model(config=dataclasses.replace(config, kernels=kernels)) for kernels in ("gpu", "xla"))
    nnx.update(ours, nnx.state(plain))
    images, truth = small_batch()

    @nnx.jit
    def run(model):
        losses, gradients = nnx.value_and_grad(lambda m: m.losses(images, truth, jax.random.key(0)).total)(model)
        return losses, gradients, model.detect(images)

    for our, their in zip(jax.tree.leaves(run(ours)), jax.tree.leaves(run(plain)), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5 * max(np.abs(their).max(initial=0), 1e-3))


def test_forms_for_gpus_are_as_exact_in_bfloat16():
    """Heads of fixed boxes, so that no rounding chooses other proposals: values and gradients are no further from those
    in float32 than the plain network's in bfloat16 are, but for a factor of 2 by chance.
    """
    images, _ = small_batch()
    boxes = jnp.array([[[4.0, 6, 30, 28], [20, 10, 60, 50], [2, 30, 25, 62]]] * len(images))

    def heads(model):
        pyramid = model.features(images)[1]
        parts = (model.rpn(pyramid), model.classify(pyramid, boxes), model.outline(pyramid, boxes))
        return sum(jnp.mean(part.astype(jnp.float32) ** 2) for part in jax.tree.leaves(parts))

    def found(kernels, dtype):
        backbone = dataclasses.replace(SMALL.backbone, block="bottleneck", norm="affine")
        config = dataclasses.replace(SMALL, backbone=backbone, kernels=kernels, compute_dtype=dtype)
        model = small_model(config=config)
        return jax.tree.leaves(nnx.jit(nnx.value_and_grad(heads))(model))

    exact, plain, ours = found("xla", "float32"), found("xla", "bfloat16"), found("gpu", "bfloat16")
    errors = np.array([[np.linalg.norm(a - e) for a, e in zip(half, exact, strict=True)] for half in (ours, plain)])
    size = np.array([np.linalg.norm(e) for e in exact])
    assert (errors[1] > 0)[size > 0].all()  # bfloat16 it was
    np.testing.assert_array_less(errors[0], 2 * errors[1] + 2**-9 * size + 1e-9)


def test_only_the_config_chooses():
    """Networks of equal config have equal graph definitions, and share their compiled programs."""
    assert MaskRCNNConfig().kernels == "xla"
    graphs = [nnx.split(small_model(seed))[0] for seed in (0, 1)]
    assert graphs[0] == graphs[1]
    assert hash(graphs[0]) == hash(graphs[1])
    assert nnx.split(small_model(config=dataclasses.replace(SMALL, kernels="cpu")))[0] != graphs[0]
