"""Training targets of the RPN: positive or negative, and deltas to the matched object (Faster R-CNN section 3.1.2)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from maskrcnn_jax.boxes.coding import encode
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.boxes.matching import Label, Matches, match
from maskrcnn_jax.boxes.sampling import sample_balanced
from maskrcnn_jax.config import BoxCoding, RPNTargetConfig
from maskrcnn_jax.structures import GroundTruth


class RPNTargets(NamedTuple):
    """The sampled anchors of one image, in s slots (positives first), and their targets."""

    indices: Int[Array, " s"]  # into all anchors
    positive: Bool[Array, " s"]
    valid: Bool[Array, " s"]
    deltas: Float[Array, "s 4"]  # of the positives; finite elsewhere


def label_anchors(anchors: Float[Array, "a 4"], truth: GroundTruth, *, config: RPNTargetConfig) -> Matches:
    """The label of every anchor, and the object that it overlaps most.

    Positive at `positive_iou` or as an object's best anchor, negative below `negative_iou`, else ignored; a negative
    whose IoU with a crowd is `crowd_iou` or more is ignored as well (Matterport's rule). Without objects all are
    negative.

    Args:
        anchors: boxes in pixels of the letterboxed image.
        truth: the objects of one image, without the batch dimension; their masks are not used.
        config: the thresholds; static under `jit`.

    Returns:
        For each anchor the index of an object and a `Label`.

    Four anchors: one on the object, one that overlaps it at an IoU of 1/3, one inside a crowd, one on background:

    >>> anchors = jnp.array([[0.0, 0, 4, 4], [2.0, 0, 6, 4], [8.0, 0, 12, 4], [20.0, 0, 24, 4]])
    >>> boxes, crowd = jnp.array([[0.0, 0, 4, 4], [8.0, 0, 16, 4]]), jnp.array([False, True])
    >>> truth = GroundTruth(boxes, jnp.array([1, 1]), jnp.ones((2, 2, 2)), jnp.array([True, True]), crowd)
    >>> label_anchors(anchors, truth, config=RPNTargetConfig()).label.tolist()
    [1, -1, -1, 0]
    """
    overlaps = iou(truth.boxes, anchors)
    matches = match(
        overlaps,
        positive_iou=config.positive_iou,
        negative_iou=config.negative_iou,
        allow_low_quality=True,
        gt_valid=truth.valid & ~truth.crowd,
    )
    crowds = truth.valid & truth.crowd
    in_crowd = (crowds[:, None] & (overlaps >= config.crowd_iou)).any(0)
    return matches._replace(label=jnp.where(in_crowd & (matches.label == Label.NEGATIVE), Label.IGNORE, matches.label))


def rpn_targets(
    key: PRNGKeyArray,
    anchors: Float[Array, "a 4"],
    truth: GroundTruth,
    *,
    config: RPNTargetConfig,
    coding: BoxCoding,
) -> RPNTargets:
    """Label all anchors of one image, sample some of them, and encode the boxes of the objects they are matched to.

    Args:
        key: of the random sample.
        anchors: boxes in pixels of the letterboxed image.
        truth: the objects of one image, without the batch dimension; their masks are not used.
        config: thresholds, `samples` in all and at most `max_positive` positive ones; static under `jit`.
        coding: the scale of the deltas; static under `jit`.

    Returns:
        The sampled anchors, positives first, in `samples` slots. Without objects all are negative.

    Two anchors, the second a quarter of its width left of the object; both are sampled, the positive first:

    >>> import jax
    >>> anchors, boxes = jnp.array([[20.0, 0, 24, 4], [0.0, 0, 8, 4]]), jnp.array([[2.0, 0, 10, 4]])
    >>> truth = GroundTruth(boxes, jnp.array([1]), jnp.ones((1, 2, 2)), jnp.array([True]), jnp.array([False]))
    >>> rule = RPNTargetConfig(samples=2, max_positive=1)
    >>> t = rpn_targets(jax.random.key(0), anchors, truth, config=rule, coding=BoxCoding((10, 10, 5, 5)))
    >>> t.indices.tolist(), t.positive.tolist(), t.deltas[0].tolist()
    ([1, 0], [True, False], [2.5, 0.0, 0.0, 0.0])
    """
    truth = truth.with_a_slot()
    matches = label_anchors(anchors, truth, config=config)
    sampled = sample_balanced(key, matches.label, total=config.samples, max_positive=config.max_positive)
    own = truth.boxes[matches.gt_index[sampled.indices]]
    deltas = encode(own, anchors[sampled.indices], coding.weights)
    return RPNTargets(sampled.indices, sampled.positive, sampled.valid, deltas)
