"""An exponential moving average of the weights, which often detects better than the weights of any one step.

    average <- decay * average + (1 - decay) * weights                              (Polyak and Juditsky 1992)

after each update. The average is kept in the optimizer's state, so that whatever saves that saves it, too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from maskrcnn_jax.checks import in_range
from maskrcnn_jax.training.state import TrainState


class AverageState(NamedTuple):
    """What `average_weights` keeps.

    Attributes:
        updates: number of updates made.
        average: of the trained parameters, a tree like theirs.
    """

    updates: Int[Array, ""]
    average: Any


def average_weights(decay: float) -> optax.GradientTransformation:
    """The last part of an `optax.chain`: it changes no update, and averages the weights that the updates lead to.

    The decay of update t is min(decay, (1 + t) / (10 + t)), t = 0, 1, ..., so that the first weights, which may be
    random, are forgotten at once (TensorFlow's `ExponentialMovingAverage` with `num_updates`).

    Args:
        decay: from 0 to 1; 0.999 averages over about a thousand updates.

    Returns:
        A transformation whose state is an `AverageState`.

    Raises:
        ValueError: a decay outside that range.

    The weight goes from 0 to 1, 2 and 3; the decays are 1/10, 2/11 and 3/12:

    >>> rule = optax.chain(optax.sgd(1.0), average_weights(0.999))
    >>> weight, gradient = jnp.array(0.0), jnp.array(-1.0)
    >>> state = rule.init(weight)
    >>> for _ in range(3):
    ...     update, state = rule.update(gradient, state, weight)
    ...     weight = optax.apply_updates(weight, update)
    >>> float(weight), round(float(state[-1].average), 4)
    (3.0, 2.7)
    """
    in_range("average_weights: decay", decay, 0, 1)

    def init(params):
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates, state, params: Any = None):
        now = jnp.minimum(decay, (1 + state.updates) / (10 + state.updates))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, 1 - now)
        return updates, AverageState(state.updates + 1, average)

    return optax.GradientTransformation(init, update)


def swap_average(state: TrainState) -> TrainState:
    """The state with the average for its parameters, and the parameters where the average was; its own inverse.

    Whoever validates, saves or exports a model takes the parameters of the swapped state; the next step needs the
    state as it was. No array is copied.

    Args:
        state: of an optimizer with `average_weights`, anywhere in it.

    Returns:
        The swapped state; the state itself if its optimizer keeps no average.

    >>> rule = optax.chain(optax.sgd(1.0), average_weights(0.9))
    >>> params = {"bias": jnp.zeros(1)}
    >>> state = TrainState({"bias": jnp.ones(1)}, {}, rule.init(params), jnp.array(1))
    >>> swap_average(state).params["bias"].tolist(), swap_average(swap_average(state)).params["bias"].tolist()
    ([0.0], [1.0])
    """
    average = optax.tree.get(state.optimizer, "average")
    if average is None:
        return state
    return state._replace(params=average, optimizer=optax.tree.set(state.optimizer, average=state.params))
