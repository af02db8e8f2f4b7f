"""The network of the lessons: the small weights that come with the package, which have seen shapes but no drops."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
from flax import nnx

from crystal.initial import SHAPES
from maskrcnn_jax import checkpoint
from maskrcnn_jax.model import MaskRCNN


@lru_cache(maxsize=1)
def pretrained() -> MaskRCNN:
    """The `tiny` network with the package's own weights (`--init shapes`); takes 256x320 pixels, finds one class."""
    return checkpoint.load(SHAPES)


@lru_cache(maxsize=16)
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, *arrays)` with the pretrained model put in, compiled once for each shape of its arrays."""
    graph, state = nnx.split(pretrained())
    return partial(jax.jit(lambda state, *arrays: function(nnx.merge(graph, state), *arrays)), state)
