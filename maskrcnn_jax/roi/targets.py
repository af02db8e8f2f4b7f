"""Training targets of the heads: class, deltas and mask (Fast R-CNN section 2.3; Mask R-CNN section 3.1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from maskrcnn_jax.boxes.coding import encode
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.boxes.matching import Label, match
from maskrcnn_jax.boxes.sampling import sample_balanced
from maskrcnn_jax.roi.align import ADAPTIVE_LIMIT, crop_cells
from maskrcnn_jax.roi.grid import Maps, bin_grid
from maskrcnn_jax.roi.separable import crop_separably


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
    sampling: str,
    binary: bool,
    aligned: bool = True,
) -> Float[Array, "q size size"]:
    """The matched object's mask in each RoI, in size x size cells, in [0, 1].

    `frames` are the boxes that the masks cover (ground-truth boxes, or the whole image for full-frame masks).
    `sampling` "corners" interpolates with `crop_and_resize`, "bins" takes the mean of adaptive RoI Align; `binary`
    rounds at 0.5. Outside its frame a mask is 0 ("bins": more than one mask cell outside, as in RoI Align).

    An object in the left half of its frame; the RoI is that half and the same area to its left:

    >>> mask, frame = jnp.array([[[1, 1, 0, 0]] * 4], jnp.uint8), jnp.array([[8.0, 0.0, 16.0, 8.0]])
    >>> options = dict(size=4, sampling="corners", binary=True)
    >>> mask_targets(jnp.array([[4.0, 0.0, 12.0, 8.0]]), jnp.array([0]), mask, frame, **options)[0, 0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    m = masks.shape[1]
    frame = frames[gt_index]
    extent = jnp.tile(jnp.maximum(frame[:, 2:] - frame[:, :2], 1e-6), 2)
    relative = (boxes - jnp.tile(frame[:, :2], 2)) / extent
    sides = jnp.full(gt_index.shape, m)
    if sampling == "corners":
        maps = Maps(sides, sides, gt_index * m * m)
        target = crop_cells(masks.reshape(-1, 1).astype(jnp.float32), relative, maps, output_size=size)[..., 0]
    else:
        one = jnp.ones(gt_index.shape, relative.dtype)
        rows, columns = bin_grid(
            relative * m,
            Maps(sides, sides, gt_index),
            bins=size,
            scale_x=one,
            scale_y=one,
            sampling_ratio=0,
            aligned=aligned,
            max_samples=ADAPTIVE_LIMIT,
        )
        target = crop_separably(masks[gt_index].astype(jnp.float32), rows, columns)
    # Half rounds up as in Detectron2 (>= 0.5); Matterport's half-to-even differs only at exact halves.
    return (target >= 0.5).astype(jnp.float32) if binary else target


def roi_targets(
    key: PRNGKeyArray,
    proposals: Float[Array, "p 4"],
    proposal_valid: Bool[Array, " p"],
    gt_boxes: Float[Array, "g 4"],
    gt_classes: Int[Array, " g"],
    gt_masks: Num[Array, "g m m"],
    gt_valid: Bool[Array, " g"],
    gt_crowd: Bool[Array, " g"],
    *,
    samples: int,
    max_positive: int,
    positive_iou: float,
    crowd_iou: float,
    negatives_per_positive: float | None,
    truth_copies: int,
    truth_jitter: float,
    delta_weights: tuple[float, float, float, float],
    mask_size: int,
    mask_sampling: str,
    binary_masks: bool,
    aligned: bool = True,
    far_edge: int = 0,
) -> RoITargets:
    """Sample `samples` RoIs from the proposals (and copies of the ground truth) and compute their targets.

    A RoI is positive at an IoU of `positive_iou` or more with an object, else negative; a negative whose IoU with a
    crowd is `crowd_iou` or more is ignored. Without objects all are negative. `far_edge` is subtracted from x2 and y2
    of proposals and ground truth at first (Matterport, see `config.py`) and added to the returned boxes.

    Two proposals, the second a quarter of its width left of an object of class 3; the positive comes first:

    >>> proposals, boxes = jnp.array([[20.0, 0, 24, 4], [0.0, 0, 8, 4]]), jnp.array([[2.0, 0, 10, 4]])
    >>> truth = boxes, jnp.array([3]), jnp.ones((1, 2, 2)), jnp.array([True]), jnp.array([False])
    >>> rule = dict(positive_iou=0.5, crowd_iou=0.001, negatives_per_positive=None, truth_copies=0, truth_jitter=0.0)
    >>> t = roi_targets(jax.random.key(0), proposals, jnp.array([True, True]), *truth, samples=2, max_positive=1,
    ...     delta_weights=(10, 10, 5, 5), mask_size=4, mask_sampling="corners", binary_masks=True, **rule)
    >>> t.boxes[0].tolist(), t.classes.tolist(), t.deltas[0].tolist(), t.masks[0, 0].tolist()
    ([0.0, 0.0, 8.0, 4.0], [3, 0], [2.5, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0])
    """
    objects = gt_valid & ~gt_crowd
    jitter_key, draw_key = jax.random.split(key)
    if truth_copies:
        copies = jittered_copies(jitter_key, gt_boxes, copies=truth_copies, jitter=truth_jitter)
        proposals = jnp.concatenate([proposals, copies])
        proposal_valid = jnp.concatenate([proposal_valid, jnp.repeat(objects, truth_copies)])
    edge = jnp.array([0, 0, far_edge, far_edge], proposals.dtype)
    candidates, truth = proposals - edge, gt_boxes - edge

    overlaps = iou(truth, candidates)
    matches = match(
        overlaps, positive_iou=positive_iou, negative_iou=positive_iou, allow_low_quality=False, gt_valid=objects
    )
    in_crowd = (jnp.where((gt_valid & gt_crowd)[:, None], overlaps, 0.0) >= crowd_iou).any(0)
    ignored = ~proposal_valid | (in_crowd & (matches.label == Label.NEGATIVE))
    label = jnp.where(ignored, Label.IGNORE, matches.label)
    sampled = sample_balanced(
        draw_key,
        label,
        total=samples,
        max_positive=max_positive,
        negatives_per_positive=negatives_per_positive,
    )

    boxes, gt_index = candidates[sampled.indices], matches.gt_index[sampled.indices]
    first = slice(0, max_positive)
    masks = mask_targets(
        boxes[first],
        gt_index[first],
        gt_masks,
        truth,
        size=mask_size,
        sampling=mask_sampling,
        binary=binary_masks,
        aligned=aligned,
    )
    return RoITargets(
        boxes=jnp.where(sampled.valid[:, None], boxes + edge, 0.0),
        classes=jnp.where(sampled.positive, gt_classes[gt_index], 0),
        deltas=jnp.where(sampled.positive[:, None], encode(truth[gt_index], boxes, delta_weights), 0.0),
        masks=jnp.where(sampled.positive[first, None, None], masks, 0.0),
        positive=sampled.positive,
        valid=sampled.valid,
    )
