"""From class logits and deltas to detections: decode, clip, threshold, suppress by class (Faster R-CNN section 3.3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.boxes.coding import decode
from maskrcnn_jax.boxes.geometry import clip_to_window
from maskrcnn_jax.boxes.nms import nms
from maskrcnn_jax.structures import Detections


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
    boxes: Float[Array, "p 4"],
    valid: Bool[Array, " p"],
    window: Float[Array, " 4"],
    *,
    one_class: bool,
    score_threshold: float,
    nms_iou: float | Float[Array, ""],
    max_detections: int,
    candidates: int,
    min_side: float,
    delta_weights: tuple[float, float, float, float],
    max_log_scale: float | None,
    far_edge: int = 0,
) -> Refined:
    """Detections of one image in `max_detections` slots, best first, together with the candidates that they were
    selected from; `select_detections(...).detections()` gives the detections alone. Their masks are empty ([d, 0, 0]):
    the mask head runs on these boxes later.

    A candidate is a RoI with its best class, if that is not background (`one_class`: Matterport), or with each class
    other than background (torchvision, Detectron2); its probability is `score_threshold` or more. The `candidates` best
    are decoded, clipped to `window`, dropped if a side is below `min_side`, and suppressed by class at `nms_iou`.

    Two equal RoIs with probabilities 0.8 and 0.4 of class 1. The second's best class is background, so it is a
    candidate only without `one_class`, and is then suppressed at an IoU threshold of 0.5:

    >>> logits = jnp.log(jnp.array([[0.2, 0.8], [0.6, 0.4]]))
    >>> boxes, window = jnp.array([[2.0, 2.0, 8.0, 8.0]] * 2), jnp.array([0.0, 0.0, 16.0, 16.0])
    >>> options = dict(score_threshold=0.3, max_detections=2, candidates=4, min_side=0.0, max_log_scale=None)
    >>> for one_class, nms_iou in ((True, 1.0), (False, 1.0), (False, 0.5)):
    ...     refined = select_detections(logits, jnp.zeros((2, 2, 4)), boxes, jnp.array([True, True]), window, **options,
    ...         one_class=one_class, nms_iou=nms_iou, delta_weights=(10, 10, 5, 5))
    ...     found = refined.detections()
    ...     refined.roi[refined.valid].tolist(), [round(float(s), 2) for s in found.scores], found.classes.tolist()
    ([0], [0.8, 0.0], [1, 0])
    ([0, 1], [0.8, 0.4], [1, 1])
    ([0, 1], [0.8, 0.0], [1, 0])
    """
    p, k = class_logits.shape
    probabilities = jax.nn.softmax(class_logits, axis=-1)
    candidate = jnp.broadcast_to(valid[:, None], (p, k)) & (jnp.arange(k) > 0)
    if one_class:
        candidate &= jnp.arange(k) == probabilities.argmax(-1)[:, None]
    ranking = jnp.where(candidate & (probabilities >= score_threshold), probabilities, -jnp.inf).reshape(-1)
    scores, index = jax.lax.top_k(ranking, min(candidates, p * k))
    row, classes = index // k, index % k

    edge = jnp.array([0, 0, far_edge, far_edge], boxes.dtype)
    moved = decode(box_deltas[row, classes], boxes[row] - edge, delta_weights, max_log_scale=max_log_scale)
    moved = clip_to_window(moved, window - edge)
    large = (moved[:, 2:] - moved[:, :2] >= min_side).all(1)
    eligible = (scores > -jnp.inf) & large
    selected, filled = nms(
        moved, scores, iou_threshold=nms_iou, max_outputs=max_detections, valid=eligible, groups=classes
    )
    return Refined(row, classes, moved + edge, scores, eligible, selected, filled)
