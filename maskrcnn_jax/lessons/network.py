"""The network of the lessons: the small weights that come with the package, which have seen shapes but no drops."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from crystal.training.starting_weights import SHAPES
from maskrcnn_jax import checkpoint
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import Pyramid, Stages


@lru_cache(maxsize=1)
def pretrained() -> MaskRCNN:
    """The `tiny` network with the package's own weights (`--init shapes`); takes 256x320 pixels, finds one class."""
    return checkpoint.load(SHAPES)


@lru_cache(maxsize=16)
def program(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, *arrays)` as a compiled function of (the model's state, *arrays), for models like the pretrained
    one.
    """
    graph, _ = nnx.split(pretrained())
    return jax.jit(lambda state, *arrays: function(nnx.merge(graph, state), *arrays))


@lru_cache(maxsize=16)
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, *arrays)` with the pretrained model put in, compiled once for each shape of its arrays."""
    return partial(program(function), nnx.split(pretrained())[1])


def not_yet_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, but shared with nobody, so that its first call is one."""
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
    """All intermediates by name; here so that the lessons that want them share one program."""
    return model.stages(images)


def pyramid_of(model: MaskRCNN, images: Any) -> Pyramid:
    """P2..P6."""
    return model.features(images)[1]
