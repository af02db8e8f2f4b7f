"""Optimizer and learning-rate schedule: warm-up and decay, gradient clipping, weight decay of kernels only, and, where
asked for, accumulation of gradients and an average of the weights.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from maskrcnn_jax.checks import in_range, one_of, whole
from maskrcnn_jax.training.averaging import average_weights

Schedule = Literal["constant", "cosine"]
Rule = Literal["sgd", "adamw"]


def make_schedule(learning_rate: float, *, steps: int, warmup: int = 0, decay: Schedule = "cosine") -> optax.Schedule:
    """The learning rate by the number of updates made: a linear warm-up from 0, then constant or a half cosine to 0.

    Args:
        learning_rate: the peak.
        steps: updates in all, warm-up included.
        warmup: updates until the peak (Goyal et al. 2017, section 2.2).
        decay: "constant", or "cosine" down to 0 at `steps` (Loshchilov and Hutter 2017, eq. 5, without restarts).

    Returns:
        A function from the number of updates made to the learning rate.

    Raises:
        ValueError: a `decay` that does not exist.

    >>> rate = make_schedule(1.0, steps=110, warmup=10)
    >>> [round(float(rate(step)), 3) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    one_of("make_schedule: decay", decay, get_args(Schedule))
    if decay == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(steps, warmup + 1))
    return optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, max(warmup, 1)), optax.constant_schedule(learning_rate)], [warmup]
    )


def is_kernel(params: Any) -> Any:
    """Which parameters weight decay is for: True for kernels (rank 2 or 4), False for norms and biases.

    >>> is_kernel({"kernel": jnp.zeros((3, 3, 1, 1)), "bias": jnp.zeros(1)})
    {'bias': False, 'kernel': True}
    """
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def make_optimizer(
    schedule: optax.Schedule,
    *,
    kind: Rule = "sgd",
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    clip_norm: float = 5.0,
    accumulate: int = 1,
    average_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Clipping of gradients by their global norm, then SGD with momentum (the defaults are Matterport's) or AdamW
    (Loshchilov and Hutter 2019), for training from scratch with group norm.

    Args:
        schedule: the learning rate by the number of updates made.
        kind: "sgd" or "adamw".
        weight_decay: of kernels only. SGD adds it to the gradient (L2 regularisation); AdamW subtracts it from the
            weights directly.
        momentum: of SGD.
        clip_norm: the largest norm of all gradients together; larger ones are scaled down to it.
        accumulate: steps whose gradients are averaged for one update (`optax.MultiSteps`); the steps in between change
            nothing. This equals one step of a batch that many times as large where all batches have as many positives
            and samples: the losses are means over those of a batch, so each batch counts the same, whatever it holds.
        average_decay: of an average of the weights (`averaging.average_weights`); 0: none.

    Returns:
        A transformation of gradients, for `create_state` and `make_step`.

    Raises:
        ValueError: a `kind` that does not exist, or a number out of range.

    A gradient of norm 50 is scaled to norm 5, at a learning rate of 0.1:

    >>> rule = make_optimizer(optax.constant_schedule(0.1), weight_decay=0.0)
    >>> weights = jnp.zeros(2)
    >>> updates, _ = rule.update(jnp.array([30.0, 40.0]), rule.init(weights), weights)
    >>> [round(float(update), 4) for update in updates]
    [-0.3, -0.4]
    """
    one_of("make_optimizer: kind", kind, get_args(Rule))
    in_range("make_optimizer: clip_norm", clip_norm, 0, above=True)
    whole("make_optimizer: accumulate", accumulate, least=1)
    decay = optax.add_decayed_weights(weight_decay, mask=is_kernel)
    if kind == "adamw":
        rule = optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(schedule))
    else:
        rule = optax.chain(decay, optax.sgd(schedule, momentum=momentum))
    # As one vector, or a GPU would start some 500 small kernels for the norms and scales of all parameters.
    rule = optax.chain(optax.flatten(optax.clip_by_global_norm(clip_norm)), rule)
    if average_decay:
        rule = optax.chain(rule, average_weights(average_decay))
    if accumulate == 1:
        return rule
    return optax.MultiSteps(rule, accumulate).gradient_transformation()
