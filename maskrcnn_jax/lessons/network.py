"""The network of the lessons: the small weights of the package, trained on drawn shapes and not on drops."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from crystal.prediction.package_weights import SHAPES
from maskrcnn_jax import checkpoint
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import Pyramid, Stages


@lru_cache(maxsize=1)
def pretrained() -> MaskRCNN:
    """The `tiny` network with the package's own weights (`--init shapes`); takes 256x320 pixels, finds one class."""
    return checkpoint.load(SHAPES)


@lru_cache(maxsize=16)
def program(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, *arrays)` compiled as a function of (state of the model, *arrays), for states of the pretrained
    network's structure.
    """
    graph, _ = nnx.split(pretrained())
    return jax.jit(lambda state, *arrays: function(nnx.merge(graph, state), *arrays))


@lru_cache(maxsize=16)
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, *arrays)` of the pretrained model, compiled once for each combination of array shapes."""
    return partial(program(function), nnx.split(pretrained())[1])


def not_yet_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, but a program of its own, so that its first call compiles."""
    return partial(program.__wrapped__(function), nnx.split(pretrained())[1])


def rpn_outputs(model: MaskRCNN, images: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Objectness logits of all anchors [b, a], and the candidates for proposals before NMS: boxes [b, n, 4], logits
    [b, n].
    """
    objectness, deltas = model.rpn(model.features(images)[1])
    _, height, width, _ = images.shape
    windows = jnp.tile(jnp.array([0.0, 0.0, width, height]), (len(images), 1))
    ranked = model.rank(objectness, deltas, windows, size=(height, width))
    return objectness, ranked.boxes, ranked.scores


def every_stage(model: MaskRCNN, images: Any) -> Stages:
    """All intermediate results by name; here so that the lessons share one program."""
    return model.stages(images)


def pyramid_of(model: MaskRCNN, images: Any) -> Pyramid:
    """P2..P6."""
    return model.features(images)[1]


def backbone_maps(model: MaskRCNN, images: Any) -> tuple[jax.Array, ...]:
    """C1..C5."""
    return model.features(images)[0]
