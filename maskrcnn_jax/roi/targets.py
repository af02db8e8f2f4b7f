"""Training targets of the heads: class, deltas and mask (Fast R-CNN section 2.3; Mask R-CNN section 3.1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from maskrcnn_jax.boxes.coding import encode
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.boxes.matching import Label, Matches, match
from maskrcnn_jax.boxes.sampling import sample_balanced
from maskrcnn_jax.config import BoxCoding, RoITargetConfig, Sampling
from maskrcnn_jax.roi.align import pyramid_roi_align
from maskrcnn_jax.structures import GroundTruth, Proposals


class RoITargets(NamedTuple):
    """The sampled RoIs of one image in r slots, positives among the first q (`max_positive`), and their targets.
    Unfilled slots have a box of zeros and class 0.
    """

    boxes: Float[Array, "r 4"]
    classes: Int[Array, " r"]
    deltas: Float[Array, "r 4"]
    masks: Float[Array, "q m m"]
    positive: Bool[Array, " r"]
    valid: Bool[Array, " r"]


def jittered_copies(
    key: PRNGKeyArray, boxes: Float[Array, "g 4"], *, copies: int, jitter: float
) -> Float[Array, "g*{copies} 4"]:
    """Each box `copies` times, every edge moved by up to `jitter` of the box's side (uniform). jitter 0: exact copies.

    Early in training few proposals overlap an object enough, and the heads would see no positives; with exact copies
    alone the box head would learn to predict zero deltas.

    >>> jittered_copies(jax.random.key(0), jnp.array([[0.0, 0.0, 4.0, 2.0]]), copies=2, jitter=0.0).tolist()
    [[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 4.0, 2.0]]
    """
    repeated = jnp.repeat(boxes, copies, axis=0)
    sides = jnp.tile(repeated[:, 2:] - repeated[:, :2], 2)
    return repeated + jitter * sides * jax.random.uniform(key, repeated.shape, minval=-1.0, maxval=1.0)


def mask_targets(
    boxes: Float[Array, "q 4"],
    gt_index: Int[Array, " q"],
    masks: Num[Array, "g m m"],
    frames: Float[Array, "g 4"],
    *,
    size: int,
    sampling: Sampling,
    binary: bool,
) -> Float[Array, "q size size"]:
    """The matched object's mask in each RoI.

    Args:
        boxes: RoIs, in pixels.
        gt_index: index of each RoI's object.
        masks: of the objects, 1 inside and 0 outside.
        frames: the boxes that the masks cover: ground-truth boxes, or the whole image for full-frame masks.
        size: cells per side of a target; static under `jit`, like the next two.
        sampling: "corners" interpolates with `crop_and_resize`, "bins" takes the mean of RoI Align.
        binary: round at 0.5.

    Returns:
        Values in [0, 1]. Outside its frame a mask is 0 ("bins": more than one mask cell outside, as in RoI Align).

    An object in the left half of its frame; the RoI is that half and the same area to its left:

    >>> mask, frame = jnp.array([[[1, 1, 0, 0]] * 4], jnp.uint8), jnp.array([[8.0, 0.0, 16.0, 8.0]])
    >>> roi, options = jnp.array([[4.0, 0.0, 12.0, 8.0]]), dict(size=4, sampling=Sampling("corners"), binary=True)
    >>> mask_targets(roi, jnp.array([0]), mask, frame, **options)[0, 0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    frame = frames[gt_index]
    extent = jnp.tile(jnp.maximum(frame[:, 2:] - frame[:, :2], 1e-6), 2)
    relative = (boxes - jnp.tile(frame[:, :2], 2)) / extent
    target = pyramid_roi_align(
        (masks[gt_index, ..., None],),  # each RoI reads an image of its own, of size 1
        relative[:, None],
        roi_levels=np.zeros((boxes.shape[0], 1), int),
        image_size=(1, 1),
        output_size=size,
        sampling=sampling,
        min_level=0,
    )[:, 0, ..., 0]
    # Half rounds up as in Detectron2 (>= 0.5); Matterport's half-to-even differs only at exact halves.
    return (target >= 0.5).astype(jnp.float32) if binary else target


def label_rois(
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    truth_boxes: Float[Array, "g 4"],
    truth: GroundTruth,
    *,
    config: RoITargetConfig,
) -> Matches:
    """Positive at an IoU of `positive_iou` or more with an object, else negative; a negative whose IoU with a crowd is
    `crowd_iou` or more, and a RoI that is not valid, are ignored. Without objects all are negative.

    `truth_boxes` replace those of `truth`, from which `far_edge` may have been subtracted.

    >>> boxes, truth_box = jnp.array([[20.0, 0, 24, 4], [0.0, 0, 8, 4]]), jnp.array([[2.0, 0, 10, 4]])
    >>> truth = GroundTruth(truth_box, jnp.array([3]), jnp.ones((1, 2, 2)), jnp.array([True]), jnp.array([False]))
    >>> label_rois(boxes, jnp.array([True, True]), truth_box, truth, config=RoITargetConfig()).label.tolist()
    [0, 1]
    """
    overlaps = iou(truth_boxes, boxes)
    limit, objects = config.positive_iou, truth.valid & ~truth.crowd
    matches = match(overlaps, positive_iou=limit, negative_iou=limit, allow_low_quality=False, gt_valid=objects)
    crowds = truth.valid & truth.crowd
    in_crowd = (crowds[:, None] & (overlaps >= config.crowd_iou)).any(0)
    ignored = ~valid | (in_crowd & (matches.label == Label.NEGATIVE))
    return matches._replace(label=jnp.where(ignored, Label.IGNORE, matches.label))


def roi_targets(
    key: PRNGKeyArray,
    proposals: Proposals,
    truth: GroundTruth,
    *,
    config: RoITargetConfig,
    coding: BoxCoding,
    mask_size: int,
    far_edge: int = 0,
) -> RoITargets:
    """Sample RoIs from the proposals of one image (and copies of the ground truth) and compute their targets.

    Args:
        key: of the random sample.
        proposals: of one image, without the batch dimension; their scores are not used.
        truth: the objects of one image, without the batch dimension.
        config: how RoIs are labelled and sampled, and masks cut out; static under `jit`, like the next three.
        coding: the scale of the deltas.
        mask_size: cells per side of a mask target.
        far_edge: subtracted from x2 and y2 of proposals and ground truth at first (Matterport, see `config.py`) and
            added to the returned boxes.

    Returns:
        The sampled RoIs, positives first, in `config.samples` slots.

    Two proposals, the second a quarter of its width left of an object of class 3; the positive comes first:

    >>> boxes, truth_box = jnp.array([[20.0, 0, 24, 4], [0.0, 0, 8, 4]]), jnp.array([[2.0, 0, 10, 4]])
    >>> truth = GroundTruth(truth_box, jnp.array([3]), jnp.ones((1, 2, 2)), jnp.array([True]), jnp.array([False]))
    >>> proposals = Proposals(boxes, jnp.ones(2), jnp.array([True, True]))
    >>> rule = RoITargetConfig(samples=2, max_positive=1)
    >>> t = roi_targets(jax.random.key(0), proposals, truth, config=rule, coding=BoxCoding(), mask_size=4)
    >>> t.boxes[0].tolist(), t.classes.tolist(), t.deltas[0].tolist(), t.masks[0, 0].tolist()
    ([0.0, 0.0, 8.0, 4.0], [3, 0], [2.5, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0])
    """
    truth = truth.with_a_slot()
    jitter_key, draw_key = jax.random.split(key)
    boxes, valid = proposals.boxes, proposals.valid
    if config.truth_copies:
        copies = jittered_copies(jitter_key, truth.boxes, copies=config.truth_copies, jitter=config.truth_jitter)
        boxes = jnp.concatenate([boxes, copies])
        valid = jnp.concatenate([valid, jnp.repeat(truth.valid & ~truth.crowd, config.truth_copies)])
    edge = jnp.array([0, 0, far_edge, far_edge], boxes.dtype)
    candidates, truth_boxes = boxes - edge, truth.boxes - edge
    matches = label_rois(candidates, valid, truth_boxes, truth, config=config)
    counts = dict(max_positive=config.max_positive, negatives_per_positive=config.negatives_per_positive)
    sampled = sample_balanced(draw_key, matches.label, total=config.samples, **counts)

    boxes, gt_index = candidates[sampled.indices], matches.gt_index[sampled.indices]
    first = slice(0, config.max_positive)
    cells: dict[str, Any] = dict(size=mask_size, sampling=config.mask_sampling, binary=config.binary_masks)
    masks = mask_targets(boxes[first], gt_index[first], truth.masks, truth_boxes, **cells)
    return RoITargets(
        boxes=jnp.where(sampled.valid[:, None], boxes + edge, 0.0),
        classes=jnp.where(sampled.positive, truth.classes[gt_index], 0),
        deltas=jnp.where(sampled.positive[:, None], encode(truth_boxes[gt_index], boxes, coding.weights), 0.0),
        masks=jnp.where(sampled.positive[first, None, None], masks, 0.0),
        positive=sampled.positive,
        valid=sampled.valid,
    )
