"""The state of a training run: trained parameters, frozen parameters, optimizer state and step.

Parameters are frozen by a filter over their paths, not by a flag on layers: frozen parameters are not differentiated,
have no optimizer state and stay bit-identical.
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
    """A pytree. `params` are trained, `frozen` parameters are not."""

    params: Any
    frozen: Any
    optimizer: Any
    step: Int[Array, ""]


def trainable_filter(part: Part = "all", *, norms: bool = True) -> Callable[[tuple, Any], bool]:
    """A filter for `nnx.split` that selects the trained parameters.

    "heads": FPN, RPN and heads; "stage4": those and the backbone from C4 on; "all": everything. These are Matterport's
    three stages of fine-tuning. With `norms` False the backbone's norms are always frozen.

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
    """The model's graph definition, and an initial state with copies of its parameters."""
    graph, params, frozen = nnx.split(model, trainable_filter(part, norms=norms), ...)
    return graph, _initial_state(optimizer, nnx.to_pure_dict(params), nnx.to_pure_dict(frozen))


# Jitted as a whole: otherwise the copy and the zeros of every shape would be compiled separately.
@partial(jax.jit, static_argnums=0)
def _initial_state(optimizer: optax.GradientTransformation, params: Any, frozen: Any) -> TrainState:
    # Copies, because the step donates the state's buffers, which must not be the model's.
    params, frozen = jax.tree.map(jnp.copy, (params, frozen))
    return TrainState(params, frozen, optimizer.init(params), jnp.zeros((), jnp.int32))


def to_model(graph: nnx.GraphDef, params: Any, frozen: Any) -> MaskRCNN:
    """The model of a graph definition and its trained and frozen parameters."""
    return nnx.merge(graph, params, frozen)
