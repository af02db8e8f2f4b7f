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

from maskrcnn_jax.checkpoint import parameters_of
from maskrcnn_jax.checks import one_of
from maskrcnn_jax.model import MaskRCNN

Part = Literal["heads", "stage4", "all"]
FROZEN_STAGES = {"heads": (0, 1, 2, 3), "stage4": (0, 1), "all": ()}  # indices into C2..C5


class TrainState(NamedTuple):
    """All that a step changes, and the frozen parameters. A pytree.

    Attributes:
        params: trained parameters, a nested dict.
        frozen: parameters that no step changes, a nested dict.
        optimizer: the optimizer's state.
        step: number of steps made.
    """

    params: Any
    frozen: Any
    optimizer: Any
    step: Int[Array, ""]


def trainable_filter(part: Part = "all", *, norms: bool = True) -> Callable[[tuple, Any], bool]:
    """A filter for `nnx.split` that selects the trained parameters: Matterport's three stages of fine-tuning.

    Args:
        part: "heads": FPN, RPN and heads; "stage4": those and the backbone from C4 on; "all": everything.
        norms: False freezes all norms of the backbone.

    Returns:
        A function of a variable's path and value; it ignores the value.

    Raises:
        ValueError: a `part` that does not exist.

    >>> trained = trainable_filter("heads")
    >>> trained(("fpn", "laterals", 0, "kernel"), None), trained(("backbone", "stem", "kernel"), None)
    (True, False)
    """
    one_of("trainable_filter: part", part, FROZEN_STAGES)

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
    """The start of a training.

    Args:
        model: its parameters are copied, since a step reuses the memory of its state.
        optimizer: as `make_optimizer` gives it, or any of optax's.
        part: what is trained, see `trainable_filter`.
        norms: whether the backbone's norms are trained.

    Returns:
        The model's graph definition (static: the model without its arrays), and the state before the first step.

    Raises:
        TypeError: the model has variables that are not parameters (`maskrcnn_jax.checkpoint.parameters_of`).
        ValueError: a `part` that does not exist.

    The tiny network, of which everything but the backbone is trained; `eval_shape` computes shapes without weights:

    >>> from maskrcnn_jax.config import MaskRCNNConfig
    >>> def start():
    ...     model = MaskRCNN(MaskRCNNConfig.tiny(), rngs=nnx.Rngs(0))
    ...     return create_state(model, optax.sgd(0.1), part="heads")[1]
    >>> state = jax.eval_shape(start)
    >>> sorted(state.params), sorted(state.frozen)
    (['box_head', 'fpn', 'mask_head', 'rpn'], ['backbone'])
    """
    parameters_of(model)
    graph, params, frozen = nnx.split(model, trainable_filter(part, norms=norms), ...)
    return graph, _initial_state(optimizer, nnx.to_pure_dict(params), nnx.to_pure_dict(frozen))


# Jitted as a whole: otherwise the copy and the zeros of every shape would be compiled separately.
@partial(jax.jit, static_argnums=0)
def _initial_state(optimizer: optax.GradientTransformation, params: Any, frozen: Any) -> TrainState:
    params, frozen = jax.tree.map(jnp.copy, (params, frozen))
    return TrainState(params, frozen, optimizer.init(params), jnp.zeros((), jnp.int32))


def to_model(graph: nnx.GraphDef, params: Any, frozen: Any) -> MaskRCNN:
    """The inverse of `create_state`: a model that shares the arrays of the parameters.

    A step deletes the arrays of the state that it is passed; a model that is to outlive it needs copies.

    Args:
        graph: from `create_state`.
        params: trained parameters, such as `state.params`, or `swap_average(state).params`.
        frozen: `state.frozen`.

    >>> from maskrcnn_jax.config import MaskRCNNConfig
    >>> def there_and_back():
    ...     graph, state = create_state(MaskRCNN(MaskRCNNConfig.tiny(), rngs=nnx.Rngs(0)), optax.sgd(0.1))
    ...     return to_model(graph, state.params, state.frozen)
    >>> nnx.eval_shape(there_and_back).box_head.classes.kernel.shape
    (128, 2)
    """
    return nnx.merge(graph, params, frozen)
