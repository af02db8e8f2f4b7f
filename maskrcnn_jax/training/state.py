"""What a training run is at one moment: the model in two halves, trained and frozen, the optimizer and the step.

Freezing is a filter over parameter paths, not a flag on layers: what the filter leaves out is never differentiated,
has no optimizer state and stays bit-identical.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from maskrcnn_jax.model import MaskRCNN

Part = Literal["heads", "stage4", "all"]
FROZEN_STAGES = {"heads": (0, 1, 2, 3), "stage4": (0, 1), "all": ()}  # indices into C2..C5


class TrainState(NamedTuple):
    """A pytree: `params` are trained, `frozen` are not."""

    params: Any
    frozen: Any
    optimizer: Any
    step: Int[Array, ""]


def trainable_filter(part: Part = "all", *, norms: bool = True) -> Callable[[tuple, Any], bool]:
    """A filter for `nnx.split` that is true for what is trained.

    "heads": FPN, RPN and heads; "stage4": those and the backbone from C4 up; "all". These are the three stages in which
    Matterport fine-tunes. With `norms` False the backbone's norms are frozen everywhere.

    >>> trained = trainable_filter("heads")
    >>> trained(("fpn", "laterals", 0, "kernel"), None), trained(("backbone", "stem", "kernel"), None)
    (True, False)
    """

    def trained(path: tuple, _value: Any) -> bool:
        if path[0] != "backbone":
            return True
        if not norms and any("norm" in str(name) for name in path):
            return False
        if path[1] != "stages":
            return part == "all"
        return path[2] not in FROZEN_STAGES[part]

    return trained


def create_state(
    model: MaskRCNN, optimizer: optax.GradientTransformation, *, part: Part = "all", norms: bool = True
) -> tuple[nnx.GraphDef, TrainState]:
    """The model's structure, and a fresh state at step 0 that holds copies of its parameters."""
    graph, params, frozen = nnx.split(model, trainable_filter(part, norms=norms), ...)
    return graph, _fresh(optimizer, nnx.to_pure_dict(params), nnx.to_pure_dict(frozen))


# One program: on its own, every shape's copy and zeros would be compiled as one.
@partial(jax.jit, static_argnums=0)
def _fresh(optimizer: optax.GradientTransformation, params: Any, frozen: Any) -> TrainState:
    # Copies: the step donates the state's buffers, which must not be the model's own.
    params, frozen = jax.tree.map(jnp.copy, (params, frozen))
    return TrainState(params, frozen, optimizer.init(params), jnp.zeros((), jnp.int32))


def to_model(graph: nnx.GraphDef, params: Any, frozen: Any) -> MaskRCNN:
    """The model that a state stands for."""
    return nnx.merge(graph, params, frozen)
