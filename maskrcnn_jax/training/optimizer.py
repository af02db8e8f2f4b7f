"""Optimizer and learning-rate schedule: warm-up and decay, gradient clipping, and weight decay of kernels only."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

Schedule = Literal["constant", "cosine"]
Rule = Literal["sgd", "adamw"]


def make_schedule(learning_rate: float, *, steps: int, warmup: int = 0, decay: Schedule = "cosine") -> optax.Schedule:
    """Linear from 0 over `warmup` steps, then constant, or a half cosine down to 0 at `steps` (SGDR eq. 5).

    >>> rate = make_schedule(1.0, steps=110, warmup=10)
    >>> [round(float(rate(step)), 3) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if decay == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(steps, warmup + 1))
    return optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, max(warmup, 1)), optax.constant_schedule(learning_rate)], [warmup]
    )


def is_kernel(params: Any) -> Any:
    """A tree of booleans: True for kernels (rank 2 or 4), False for norms and biases.

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
) -> optax.GradientTransformation:
    """Clipping of gradients by their global norm, then SGD with momentum (the defaults are Matterport's) or AdamW
    (Loshchilov and Hutter 2019), for training from scratch with group norm.

    SGD adds the weight decay to the gradient (L2 regularisation); AdamW subtracts it from the weights directly.

    A gradient of norm 50 is scaled to norm 5, at a learning rate of 0.1:

    >>> rule = make_optimizer(optax.constant_schedule(0.1), weight_decay=0.0)
    >>> weights = jnp.zeros(2)
    >>> updates, _ = rule.update(jnp.array([30.0, 40.0]), rule.init(weights), weights)
    >>> [round(float(update), 4) for update in updates]
    [-0.3, -0.4]
    """
    decay = optax.add_decayed_weights(weight_decay, mask=is_kernel)
    if kind == "adamw":
        rule = optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(schedule))
    else:
        rule = optax.chain(decay, optax.sgd(schedule, momentum=momentum))
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule)
