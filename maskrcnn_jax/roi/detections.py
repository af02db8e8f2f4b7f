"""From class logits and deltas to detections: decode, clip, threshold, suppress by class (Faster R-CNN section 3.3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.boxes.coding import decode
from maskrcnn_jax.boxes.geometry import clip_to_window
from maskrcnn_jax.boxes.nms import nms
from maskrcnn_jax.config import BoxCoding, DetectionConfig
from maskrcnn_jax.structures import Detections, Proposals


class Refined(NamedTuple):
    """The n (RoI, class) candidates of NMS, best first, and which of them fill the d slots of the detections."""

    roi: Int[Array, " n"]
    classes: Int[Array, " n"]
    boxes: Float[Array, "n 4"]  # the RoIs moved by the deltas of the class
    scores: Float[Array, " n"]  # probabilities
    valid: Bool[Array, " n"]  # False: not a candidate, or a side below `min_side`
    selected: Int[Array, " d"]
    filled: Bool[Array, " d"]

    def detections(self) -> Detections:
        """The d detections, without masks."""
        selected, filled = self.selected, self.filled
        return Detections(
            boxes=jnp.where(filled[:, None], self.boxes[selected], 0.0),
            classes=jnp.where(filled, self.classes[selected], 0).astype(jnp.int32),
            scores=jnp.where(filled, self.scores[selected], 0.0),
            masks=jnp.zeros((filled.shape[0], 0, 0)),
            valid=filled,
        )


def select_detections(
    class_logits: Float[Array, "p k"],
    box_deltas: Float[Array, "p k 4"],
    proposals: Proposals,
    window: Float[Array | np.ndarray, " 4"],
    *,
    config: DetectionConfig,
    coding: BoxCoding,
    far_edge: int = 0,
) -> Refined:
    """Candidates and detections of one image; `select_detections(...).detections()` gives the detections alone.

    A candidate is a RoI with its best class, if that is not background (`one_class`: Matterport), or with each class
    other than background (torchvision, Detectron2); its probability is `score_threshold` or more. The `candidates` best
    are decoded, clipped, dropped if a side is below `min_side`, and suppressed by class at `nms_iou`. Everything but
    the arrays is static under `jit`.

    Args:
        class_logits: of every proposal.
        box_deltas: of every proposal, for each class.
        proposals: of one image, without the batch dimension.
        window: the part of the image that detections are clipped to.
        config: thresholds and limits.
        coding: scale and limit of the deltas.
        far_edge: subtracted from x2 and y2 at first and added in the end (Matterport, see `config.py`).

    Returns:
        The candidates, and indices of the detections in `max_detections` slots, best first. Masks are empty
        ([d, 0, 0]): the mask head runs on these boxes later.

    Two equal RoIs with probabilities 0.8 and 0.4 of class 1. The second's best class is background, so it is a
    candidate only without `one_class`, and is then suppressed:

    >>> logits, box = jnp.log(jnp.array([[0.2, 0.8], [0.6, 0.4]])), jnp.array([[2.0, 2.0, 8.0, 8.0]] * 2)
    >>> proposals, window = Proposals(box, jnp.ones(2), jnp.array([True, True])), jnp.array([0.0, 0.0, 16.0, 16.0])
    >>> rule = DetectionConfig(one_class=False, score_threshold=0.3, max_detections=2)
    >>> refined = select_detections(logits, jnp.zeros((2, 2, 4)), proposals, window, config=rule, coding=BoxCoding())
    >>> refined.roi[refined.valid].tolist(), [round(float(score), 2) for score in refined.detections().scores]
    ([0, 1], [0.8, 0.0])
    """
    p, k = class_logits.shape
    probabilities = jax.nn.softmax(class_logits, axis=-1)
    candidate = jnp.broadcast_to(proposals.valid[:, None], (p, k)) & (jnp.arange(k) > 0)
    if config.one_class:
        candidate &= jnp.arange(k) == probabilities.argmax(-1)[:, None]
    likely = candidate & (probabilities >= config.score_threshold)
    ranking = jnp.where(likely, probabilities, -jnp.inf).reshape(-1)
    scores, index = jax.lax.top_k(ranking, min(config.candidates, p * k))
    row, classes = index // k, index % k

    edge = jnp.array([0, 0, far_edge, far_edge], proposals.boxes.dtype)
    rois = proposals.boxes[row] - edge
    moved = decode(box_deltas[row, classes], rois, coding.weights, max_log_scale=coding.max_log_scale)
    moved = clip_to_window(moved, window - edge)
    eligible = (scores > -jnp.inf) & (moved[:, 2:] - moved[:, :2] >= config.min_side).all(1)
    limit, threshold = config.max_detections, config.nms_iou
    selected, filled = nms(moved, scores, iou_threshold=threshold, max_outputs=limit, valid=eligible, groups=classes)
    return Refined(row, classes, moved + edge, scores, eligible, selected, filled)
