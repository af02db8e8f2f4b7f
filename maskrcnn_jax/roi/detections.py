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
    """The n (RoI, class) pairs that are held against each other, best first, and which of them the d slots show."""

    roi: Int[Array, " n"]
    classes: Int[Array, " n"]
    boxes: Float[Array, "n 4"]  # the RoIs moved by the deltas of that class
    scores: Float[Array, " n"]  # probabilities
    valid: Bool[Array, " n"]  # False: the class may not count, or a side under `min_side`
    kept: Int[Array, " d"]
    filled: Bool[Array, " d"]

    def detections(self) -> Detections:
        """The d that remain, without masks."""
        kept, filled = self.kept, self.filled
        return Detections(
            boxes=jnp.where(filled[:, None], self.boxes[kept], 0.0),
            classes=jnp.where(filled, self.classes[kept], 0).astype(jnp.int32),
            scores=jnp.where(filled, self.scores[kept], 0.0),
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
    """Detections of one image in `max_detections` slots, best first, beside what they were chosen among:
    `select_detections(...).detections()` are those alone. Their masks are left empty ([d, 0, 0]) for the mask head,
    which runs on these boxes.

    `one_class` takes each RoI's best class if that is not background (Matterport); otherwise every class over
    `score_threshold` is a candidate with its own box (torchvision, Detectron2), the best `candidates` of them.
    Boxes are clipped to `window`; those with a side under `min_side` are dropped.

    Two RoIs at one place: class 1 at 0.8, and background; the second has 0.4 of class 1, which counts only where every
    class may, and then falls to the first:

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
    counts = jnp.broadcast_to(valid[:, None], (p, k)) & (jnp.arange(k) > 0)
    if one_class:
        counts &= jnp.arange(k) == probabilities.argmax(-1)[:, None]
    ranking = jnp.where(counts & (probabilities >= score_threshold), probabilities, -jnp.inf).reshape(-1)
    scores, index = jax.lax.top_k(ranking, min(candidates, p * k))
    row, classes = index // k, index % k

    edge = jnp.array([0, 0, far_edge, far_edge], boxes.dtype)
    moved = decode(box_deltas[row, classes], boxes[row] - edge, delta_weights, max_log_scale=max_log_scale)
    moved = clip_to_window(moved, window - edge)
    large = (moved[:, 2:] - moved[:, :2] >= min_side).all(1)
    eligible = (scores > -jnp.inf) & large
    kept, filled = nms(moved, scores, iou_threshold=nms_iou, max_outputs=max_detections, valid=eligible, groups=classes)
    return Refined(row, classes, moved + edge, scores, eligible, kept, filled)
