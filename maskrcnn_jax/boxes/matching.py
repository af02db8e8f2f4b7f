"""Matching of anchors or proposals to ground truth by IoU (Faster R-CNN section 3.1.2; Crystals 2021, section 2.3)."""

import enum
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from maskrcnn_jax import checks


class Label(enum.IntEnum):
    """Training label of a candidate."""

    IGNORE = -1
    NEGATIVE = 0
    POSITIVE = 1


class Matches(NamedTuple):
    """For each of n candidates: the ground truth of highest IoU, and a `Label`."""

    gt_index: Int[Array, " n"]
    label: Int[Array, " n"]


@partial(jax.jit, static_argnames="allow_low_quality")
def _match(
    iou: Float[Array, "g n"],
    positive_iou: float | Float[ArrayLike, ""],
    negative_iou: float | Float[ArrayLike, ""],
    gt_valid: Bool[Array, " g"] | None,
    allow_low_quality: bool,
) -> Matches:
    g, n = iou.shape
    if g == 0 or n == 0:
        return Matches(jnp.zeros(n, jnp.int32), jnp.full(n, Label.NEGATIVE, jnp.int32))
    counts = ~jnp.isnan(iou)
    if gt_valid is not None:
        counts &= gt_valid[:, None]
    iou = jnp.where(counts, iou, -1.0)
    best_iou = iou.max(axis=0)
    label = jnp.where(best_iou < negative_iou, Label.NEGATIVE, Label.IGNORE)
    label = jnp.where(best_iou >= positive_iou, Label.POSITIVE, label)
    if allow_low_quality:
        best_of_gt = iou.max(axis=1, keepdims=True)
        # The index as well as the equality: compiled together with the IoUs, the two sides of `==` may be computed in
        # two ways that round differently, and no object may lose its best candidate to that.
        is_best = (jnp.arange(n) == iou.argmax(axis=1, keepdims=True)) | (iou == best_of_gt)
        label = jnp.where((is_best & (best_of_gt > 0)).any(axis=0), Label.POSITIVE, label)
    return Matches(iou.argmax(axis=0).astype(jnp.int32), label.astype(jnp.int32))


def match(
    iou: Num[Array | np.ndarray, "g n"],
    *,
    positive_iou: float | Float[ArrayLike, ""],
    negative_iou: float | Float[ArrayLike, ""],
    allow_low_quality: bool,
    gt_valid: Bool[Array | np.ndarray, " g"] | None = None,
) -> Matches:
    """Label n candidates by their best IoU with g ground truths: positive at `positive_iou` or more, negative below
    `negative_iou`, ignored in between.

    Args:
        iou: from `boxes.geometry.iou`, 0 to 1, a row for each ground truth. NaN counts as no overlap.
        positive_iou: 0 to 1; may be traced, as `negative_iou`.
        negative_iou: at most `positive_iou`.
        allow_low_quality: the candidates that tie for the best IoU of a ground truth are positive as well, unless that
            IoU is 0, so that no object is left without a positive; each is still matched to the ground truth that it
            overlaps most. Static under `jit`.
        gt_valid: which rows count; default: all. Without any, every candidate is negative.

    Returns:
        For each candidate the ground truth of highest IoU (ties: the first), and its label 1, 0 or -1 (ignored).

    Raises:
        ValueError: other shapes, or thresholds outside 0 to 1 or in the wrong order.
        TypeError: arrays of another kind.

    Two objects, three candidates: the second object's best is the middle one, at 0.4 (ignored without low quality):

    >>> table = jnp.array([[0.8, 0.3, 0.0], [0.0, 0.4, 0.1]])
    >>> match(table, positive_iou=0.7, negative_iou=0.3, allow_low_quality=False).label.tolist()
    [1, -1, 0]
    >>> match(table, positive_iou=0.7, negative_iou=0.3, allow_low_quality=True).label.tolist()
    [1, 1, 0]
    """
    iou = checks.as_floats("match: iou", iou, "g n")
    checks.kind("match: gt_valid", gt_valid, np.bool_, "g")
    checks.same_length("match", iou=iou, gt_valid=gt_valid)
    checks.in_range("match: positive_iou", positive_iou, 0, 1)
    remedy = f"give a number from 0 to positive_iou, {positive_iou}"
    checks.in_range("match: negative_iou", negative_iou, 0, positive_iou, remedy=remedy)
    return _match(iou, positive_iou, negative_iou, gt_valid, allow_low_quality)
