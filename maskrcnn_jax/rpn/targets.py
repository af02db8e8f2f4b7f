"""Training targets of the RPN: positive or negative, and deltas to the matched object (Faster R-CNN section 3.1.2)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from maskrcnn_jax.boxes.coding import encode
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.boxes.matching import Label, Matches, match
from maskrcnn_jax.boxes.sampling import sample_balanced


class RPNTargets(NamedTuple):
    """The sampled anchors of one image, in s slots (positives first), and their targets."""

    indices: Int[Array, " s"]  # into all anchors
    positive: Bool[Array, " s"]
    valid: Bool[Array, " s"]
    deltas: Float[Array, "s 4"]  # of the positives; finite elsewhere


def label_anchors(
    anchors: Float[Array, "a 4"],
    gt_boxes: Float[Array, "g 4"],
    gt_valid: Bool[Array, " g"],
    gt_crowd: Bool[Array, " g"],
    *,
    positive_iou: float,
    negative_iou: float,
    crowd_iou: float,
) -> Matches:
    """Positive at `positive_iou` or as an object's best anchor, negative below `negative_iou`, else ignored; a
    negative whose IoU with a crowd is `crowd_iou` or more is ignored as well (Matterport's rule).

    Four anchors: one on the object, one that overlaps it at an IoU of 1/3, one inside a crowd, one on background:

    >>> anchors = jnp.array([[0.0, 0, 4, 4], [2.0, 0, 6, 4], [8.0, 0, 12, 4], [20.0, 0, 24, 4]])
    >>> boxes, crowd = jnp.array([[0.0, 0, 4, 4], [8.0, 0, 16, 4]]), jnp.array([False, True])
    >>> rule = dict(positive_iou=0.7, negative_iou=0.3, crowd_iou=0.001)
    >>> label_anchors(anchors, boxes, jnp.array([True, True]), crowd, **rule).label.tolist()
    [1, -1, -1, 0]
    """
    overlaps = iou(gt_boxes, anchors)
    objects = gt_valid & ~gt_crowd
    matches = match(
        overlaps, positive_iou=positive_iou, negative_iou=negative_iou, allow_low_quality=True, gt_valid=objects
    )
    in_crowd = (jnp.where((gt_valid & gt_crowd)[:, None], overlaps, 0.0) >= crowd_iou).any(0)
    return matches._replace(label=jnp.where(in_crowd & (matches.label == Label.NEGATIVE), Label.IGNORE, matches.label))


def rpn_targets(
    key: PRNGKeyArray,
    anchors: Float[Array, "a 4"],
    gt_boxes: Float[Array, "g 4"],
    gt_valid: Bool[Array, " g"],
    gt_crowd: Bool[Array, " g"],
    *,
    samples: int,
    max_positive: int,
    positive_iou: float,
    negative_iou: float,
    crowd_iou: float,
    delta_weights: tuple[float, float, float, float],
) -> RPNTargets:
    """Label all anchors, sample `samples` of them, at most `max_positive` positive, and encode the matched boxes.

    Without objects all anchors are negative.

    Two anchors, the second a quarter of its width left of the object; both are sampled, the positive first:

    >>> import jax
    >>> anchors, boxes = jnp.array([[20.0, 0, 24, 4], [0.0, 0, 8, 4]]), jnp.array([[2.0, 0, 10, 4]])
    >>> rule = dict(positive_iou=0.5, negative_iou=0.3, crowd_iou=0.001, delta_weights=(10, 10, 5, 5))
    >>> objects, crowd = jnp.array([True]), jnp.array([False])
    >>> t = rpn_targets(jax.random.key(0), anchors, boxes, objects, crowd, samples=2, max_positive=1, **rule)
    >>> t.indices.tolist(), t.positive.tolist(), t.deltas[0].tolist()
    ([1, 0], [True, False], [2.5, 0.0, 0.0, 0.0])
    """
    matches = label_anchors(
        anchors,
        gt_boxes,
        gt_valid,
        gt_crowd,
        positive_iou=positive_iou,
        negative_iou=negative_iou,
        crowd_iou=crowd_iou,
    )
    sampled = sample_balanced(key, matches.label, total=samples, max_positive=max_positive)
    if gt_boxes.shape[0] == 0:
        deltas = jnp.zeros((samples, 4))
    else:
        deltas = encode(gt_boxes[matches.gt_index[sampled.indices]], anchors[sampled.indices], delta_weights)
    return RPNTargets(sampled.indices, sampled.positive, sampled.valid, deltas)
