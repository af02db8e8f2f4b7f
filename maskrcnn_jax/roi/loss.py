"""The three losses of the second stage (Mask R-CNN section 3; Crystals 2021, eq. 1): L = L_cls + L_box + L_mask.

L_cls is the cross entropy over the classes; L_box the smooth L1 of the true class's deltas; L_mask the binary cross
entropy of the true class's mask alone, so that classes do not compete for pixels. L_box and L_mask use positives only.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from maskrcnn_jax.config import RoILossConfig
from maskrcnn_jax.losses import masked_mean, smooth_l1
from maskrcnn_jax.roi.targets import RoITargets


def roi_losses(
    class_logits: Float[Array, "b r k"],
    box_deltas: Float[Array, "b r k 4"],
    mask_logits: Float[Array, "b q m m k"] | Float[Array, "b q m m"],
    targets: RoITargets,
    *,
    config: RoILossConfig,
    axis: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """The three losses of a batch. Without positives box and mask losses are 0, with finite gradients.

    Args:
        class_logits: of every sampled RoI.
        box_deltas: of every RoI, for each class.
        mask_logits: of the RoIs in the first q slots, where the positives are: for each class, or for the true one.
        targets: of `roi_targets`, with a batch dimension in front.
        config: what the sums are divided by, and beta of smooth L1; static under `jit`. Class "sampled": the sampled
            RoIs; "slots": all slots, unfilled ones counting as background (Matterport). Box "sampled": the sampled
            RoIs (torchvision, Detectron2); "positive_coordinates": four times the positives (Matterport).
        axis: mesh axis of a sharded batch, see `masked_mean`.

    Returns:
        (class, box, mask) losses.

    A positive of class 1 whose dx is off by 2, and a negative, all logits 0: log 2 over two classes, (2 - beta / 2)
    over the two RoIs, log 2 at each cell of the mask:

    >>> positive, valid = jnp.array([[True, False]]), jnp.array([[True, True]])
    >>> deltas, masks = jnp.zeros((1, 2, 2, 4)).at[0, 0, 1, 0].set(2.0), jnp.zeros((1, 1, 2, 2, 2))
    >>> t = RoITargets(jnp.zeros((1, 2, 4)), jnp.array([[1, 0]]), jnp.zeros((1, 2, 4)), masks[..., 0], positive, valid)
    >>> rule = RoILossConfig(box_normaliser="sampled", box_beta=1.0)
    >>> [round(float(loss), 4) for loss in roi_losses(jnp.zeros((1, 2, 2)), deltas, masks, t, config=rule)]
    [0.6931, 0.75, 0.6931]
    """
    entropy = optax.softmax_cross_entropy_with_integer_labels(class_logits, targets.classes)
    rows = jnp.ones_like(targets.valid) if config.class_normaliser == "slots" else targets.valid
    loss_class = masked_mean(entropy, rows, axis=axis)

    true_class = targets.classes[..., None]
    deltas = jnp.take_along_axis(box_deltas, true_class[..., None], axis=2)[:, :, 0]
    distance = smooth_l1(deltas - targets.deltas, config.box_beta).sum(-1)
    count = {
        "sampled": targets.valid.sum().astype(entropy.dtype),
        "positive_coordinates": 4.0 * targets.positive.sum().astype(entropy.dtype),
    }
    loss_box = masked_mean(distance, targets.positive, count[config.box_normaliser], axis)

    q = mask_logits.shape[1]
    if mask_logits.ndim == 5:
        mask_logits = jnp.take_along_axis(mask_logits, true_class[:, :q, None, None], axis=4)[..., 0]
    cells = optax.sigmoid_binary_cross_entropy(mask_logits, targets.masks).mean((2, 3))
    loss_mask = masked_mean(cells, targets.positive[:, :q], axis=axis)
    return loss_class, loss_box, loss_mask
