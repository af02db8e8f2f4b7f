"""The kernels for CPUs and XLA's compute the same network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.config import MaskRCNNConfig
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


def test_only_the_config_chooses():
    """Networks of equal config have equal graph definitions, and share their compiled programs."""
    assert MaskRCNNConfig().kernels == "xla"
    graphs = [nnx.split(small_model(seed))[0] for seed in (0, 1)]
    assert graphs[0] == graphs[1]
    assert hash(graphs[0]) == hash(graphs[1])
    assert nnx.split(small_model(config=dataclasses.replace(SMALL, kernels="cpu")))[0] != graphs[0]
