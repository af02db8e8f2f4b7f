"""The smallest network that has every part, for tests that train or save: 64x64 images, a few thousand parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.config import (
    AnchorConfig,
    BoxHeadConfig,
    ImageConfig,
    MaskHeadConfig,
    MaskRCNNConfig,
    RPNTargetConfig,
)
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth

_TINY = MaskRCNNConfig.tiny()
SMALL = dataclasses.replace(
    _TINY,
    image=ImageConfig(size=(64, 64), mean=(127.5,) * 3, std=(64.0,) * 3),
    backbone=dataclasses.replace(_TINY.backbone, depths=(1, 1, 1, 1), channels=(8, 8, 8, 8), stem_channels=8),
    fpn_channels=8,
    anchors=AnchorConfig(sizes=(8, 16, 24, 32, 48)),
    rpn=dataclasses.replace(
        _TINY.rpn,
        channels=8,
        targets=RPNTargetConfig(samples=32, max_positive=16),
        proposals=dataclasses.replace(_TINY.rpn.proposals, before_nms=(40, 40), after_nms=(20, 20)),
    ),
    roi=dataclasses.replace(
        _TINY.roi,
        box_head=BoxHeadConfig(size=3, hidden=16),
        mask_head=MaskHeadConfig(size=4, channels=8, layers=1),
        targets=dataclasses.replace(_TINY.roi.targets, samples=12, max_positive=4),
    ),
    detection=dataclasses.replace(_TINY.detection, score_threshold=0.0, candidates=20, max_detections=8),
)


def quick_rngs(seed=0):
    """Random numbers whose programs compile in a fifth of the time that those of JAX's default generator take."""
    return nnx.Rngs(jax.random.key(seed, impl="rbg"))


def small_model(seed=0, config=SMALL):
    return MaskRCNN(config, rngs=quick_rngs(seed))


def small_batch(seed=0, b=2, g=3, empty=False):
    """(images, truth): bright squares on a dark ground."""
    rng = np.random.default_rng(seed)
    images = rng.integers(20, 60, (b, 64, 64, 3)).astype(np.uint8)
    corners = rng.integers(2, 40, (b, g, 2))
    boxes = np.concatenate([corners, corners + rng.integers(10, 22, (b, g, 2))], -1)
    valid = np.zeros((b, g), bool) if empty else np.arange(g) < rng.integers(1, g + 1, b)[:, None]
    for i in range(b):
        for x1, y1, x2, y2 in boxes[i][valid[i]]:
            images[i, y1:y2, x1:x2] = 220
    truth = GroundTruth(
        jnp.asarray(boxes, jnp.float32),
        jnp.ones((b, g), jnp.int32),
        jnp.ones((b, g, 16, 16), jnp.uint8),
        jnp.asarray(valid),
        jnp.zeros((b, g), bool),
    )
    return jnp.asarray(images), truth


def one_truth(boxes, valid=None, crowd=None, classes=None, masks=None):
    """The ground truth of one image, without the batch dimension; by default all objects are valid, of class 1."""
    g = len(boxes)
    return GroundTruth(
        jnp.asarray(boxes, jnp.float32),
        jnp.ones(g, jnp.int32) if classes is None else jnp.asarray(classes, jnp.int32),
        jnp.ones((g, 2, 2), jnp.uint8) if masks is None else jnp.asarray(masks),
        jnp.ones(g, bool) if valid is None else jnp.asarray(valid),
        jnp.zeros(g, bool) if crowd is None else jnp.asarray(crowd),
    )
