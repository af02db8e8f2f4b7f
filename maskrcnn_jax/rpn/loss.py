"""The RPN's two-term loss (Faster R-CNN eq. 1; Crystals 2021, eq. 2).

    L = 1/N_cls sum_i L_cls(p_i, p*_i) + lambda 1/N_reg sum_i p*_i L_reg(t_i, t*_i)

over the sampled anchors i of the whole batch: p the objectness, p* 1 for positives and 0 for negatives, t the predicted
and t* the target deltas; L_cls is the binary cross entropy, L_reg smooth L1 summed over the four deltas. The sources
differ in the normalisers:

    |             | N_cls           | N_reg                | beta of L_reg |
    | Matterport  | sampled anchors | 4 x positive anchors | 1             |
    | torchvision | sampled anchors | sampled anchors      | 1/9           |
    | Detectron2  | 256 x images    | 256 x images         | 0 (L1)        |

lambda is 1 in all three.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from maskrcnn_jax.config import RPNLossConfig
from maskrcnn_jax.losses import masked_mean, smooth_l1
from maskrcnn_jax.rpn.targets import RPNTargets


def rpn_losses(
    objectness: Float[Array, "b a"],
    deltas: Float[Array, "b a 4"],
    targets: RPNTargets,
    *,
    config: RPNLossConfig,
    axis: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The two terms of a batch. Without samples or positives a term is 0, with finite gradients.

    Args:
        objectness: a logit for every anchor.
        deltas: predicted deltas of every anchor.
        targets: of `rpn_targets`, with a batch dimension in front.
        config: normalisers ("slots": samples requested per image, times images) and beta; static under `jit`. The
            caller applies lambda, `config.box_weight`.
        axis: mesh axis of a sharded batch, see `masked_mean`.

    Returns:
        (class term, box term).

    A positive whose dx is off by 2 and a negative, all logits 0: log 2 each, and (2 - beta / 2) over two anchors:

    >>> positive = jnp.array([[True, False]])
    >>> targets = RPNTargets(jnp.array([[1, 0]]), positive, jnp.array([[True, True]]), jnp.zeros((1, 2, 4)))
    >>> deltas, rule = jnp.zeros((1, 2, 4)).at[0, 1, 0].set(2.0), RPNLossConfig(box_normaliser="sampled", box_beta=1.0)
    >>> [round(float(loss), 4) for loss in rpn_losses(jnp.zeros((1, 2)), deltas, targets, config=rule)]
    [0.6931, 0.75]
    """
    logits = jnp.take_along_axis(objectness, targets.indices, axis=1)
    predicted = jnp.take_along_axis(deltas, targets.indices[..., None], axis=1)
    entropy = optax.sigmoid_binary_cross_entropy(logits, targets.positive.astype(logits.dtype))
    distance = smooth_l1(predicted - targets.deltas, config.box_beta).sum(-1)

    count = {
        "sampled": targets.valid.sum().astype(logits.dtype),
        "slots": float(targets.valid.size),
        "positive_coordinates": 4.0 * targets.positive.sum().astype(logits.dtype),
    }
    return (
        masked_mean(entropy, targets.valid, count[config.class_normaliser], axis),
        masked_mean(distance, targets.positive, count[config.box_normaliser], axis),
    )
