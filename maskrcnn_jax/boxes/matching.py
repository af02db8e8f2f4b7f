"""Matching of anchors or proposals to ground truth by IoU (Faster R-CNN section 3.1.2; Crystals 2021, section 2.3)."""

import enum
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Label(enum.IntEnum):
    """Training label of a candidate."""

    IGNORE = -1
    NEGATIVE = 0
    POSITIVE = 1


class Matches(NamedTuple):
    """For each of n candidates: the ground truth of highest IoU, and a `Label`."""

    gt_index: Int[Array, " n"]
    label: Int[Array, " n"]


def match(
    iou: Float[Array, "g n"],
    *,
    positive_iou: float | Float[Array, ""],
    negative_iou: float | Float[Array, ""],
    allow_low_quality: bool,
    gt_valid: Bool[Array, " g"] | None = None,
) -> Matches:
    """Label n candidates by their best IoU with g ground truths.

    Positive at `positive_iou` or more, negative below `negative_iou`, ignored in between. With `allow_low_quality` the
    candidates that tie for the best IoU of a ground truth are positive as well, unless that IoU is 0, so that no object
    is left without a positive; each is still matched to the ground truth that it overlaps most. Rows that are not
    `gt_valid` are left out; without valid rows every candidate is negative.

    Two objects, three candidates: the second object's best is the middle one, at 0.4 (ignored without low quality):

    >>> table = jnp.array([[0.8, 0.3, 0.0], [0.0, 0.4, 0.1]])
    >>> match(table, positive_iou=0.7, negative_iou=0.3, allow_low_quality=False).label.tolist()
    [1, -1, 0]
    >>> match(table, positive_iou=0.7, negative_iou=0.3, allow_low_quality=True).label.tolist()
    [1, 1, 0]
    """
    g, n = iou.shape
    if g == 0:
        return Matches(jnp.zeros(n, jnp.int32), jnp.full(n, Label.NEGATIVE, jnp.int32))
    if gt_valid is not None:
        iou = jnp.where(gt_valid[:, None], iou, -1.0)
    best_iou = iou.max(axis=0)
    label = jnp.where(best_iou < negative_iou, Label.NEGATIVE, Label.IGNORE)
    label = jnp.where(best_iou >= positive_iou, Label.POSITIVE, label)
    if allow_low_quality:
        best_of_gt = iou.max(axis=1, keepdims=True)
        low_quality = ((iou == best_of_gt) & (best_of_gt > 0)).any(axis=0)
        label = jnp.where(low_quality, Label.POSITIVE, label)
    # The first row that has the best IoU. XLA's argmax along the first axis is much slower on CPUs.
    row = jnp.arange(g, dtype=jnp.int32)[:, None]
    first_best = jnp.where(iou == best_iou, row, g - 1).min(axis=0)
    return Matches(first_best, label.astype(jnp.int32))
