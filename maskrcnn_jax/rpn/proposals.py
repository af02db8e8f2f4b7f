"""From objectness and deltas to proposals: rank, decode, clip, suppress (Faster R-CNN section 3.3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.boxes.coding import decode
from maskrcnn_jax.boxes.geometry import clip_to_window
from maskrcnn_jax.boxes.nms import nms
from maskrcnn_jax.structures import Proposals


class Ranked(NamedTuple):
    """The n candidates of NMS, and which of them fill the p slots of the proposals."""

    anchor: Int[Array, " n"]  # index of the anchor that each was decoded from
    boxes: Float[Array, "n 4"]
    scores: Float[Array, " n"]
    valid: Bool[Array, " n"]  # False: a side below `min_side`
    selected: Int[Array, " p"]
    filled: Bool[Array, " p"]

    def proposals(self) -> Proposals:
        """The p proposals."""
        boxes = jnp.where(self.filled[:, None], self.boxes[self.selected], 0.0)
        return Proposals(boxes, self.scores[self.selected], self.filled)


def _best_per_level(objectness: Float[Array, " a"], level_sizes: tuple[int, ...], limit: int) -> list[Array]:
    """Indices, into all anchors, of the `limit` best logits of each level."""
    best, start = [], 0
    for size in level_sizes:
        _, index = jax.lax.top_k(objectness[start : start + size], min(limit, size))
        best.append(index + start)
        start += size
    return best


def propose(
    objectness: Float[Array, " a"],
    deltas: Float[Array, "a 4"],
    anchors: Float[Array, "a 4"],
    window: Float[Array, " 4"],
    *,
    level_sizes: tuple[int, ...],
    per_level: bool,
    score: str,
    before_nms: int,
    after_nms: int,
    nms_iou: float,
    min_side: float,
    delta_weights: tuple[float, float, float, float],
    max_log_scale: float | None,
) -> Ranked:
    """Proposals of one image in `after_nms` slots, best first, clipped to `window`, together with the candidates that
    they were selected from; `propose(...).proposals()` gives the proposals alone.

    `level_sizes`: number of anchors per level. The `before_nms` best anchors by logit, of each level or of all levels
    together, are decoded and suppressed at `nms_iou`; the `after_nms` best of the rest are the proposals. `score` is
    what both rank by: "logit", or "probability", which ties where the sigmoid saturates in float32. Boxes with a side
    below `min_side` are dropped.

    Three anchors, not moved: the second overlaps the first at an IoU of 9/11 and is suppressed, the third is clipped to
    the window. By logit they rank third, first, second, and the first two of that order are selected:

    >>> anchors = jnp.array([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 40.0, 10.0]])
    >>> options = dict(level_sizes=(3,), per_level=True, score="logit", before_nms=3, after_nms=3, nms_iou=0.7)
    >>> ranked = propose(jnp.array([2.0, 1.0, 3.0]), jnp.zeros((3, 4)), anchors, jnp.array([0.0, 0.0, 32.0, 32.0]),
    ...     **options, min_side=0.0, delta_weights=(1, 1, 1, 1), max_log_scale=None)
    >>> ranked.anchor.tolist(), ranked.selected[ranked.filled].tolist()
    ([2, 0, 1], [0, 1])
    >>> found = ranked.proposals()
    >>> found.boxes[found.valid].tolist(), found.scores[found.valid].tolist()
    ([[20.0, 0.0, 32.0, 10.0], [0.0, 0.0, 10.0, 10.0]], [3.0, 2.0])
    """
    groups = _best_per_level(objectness, level_sizes if per_level else (objectness.shape[0],), before_nms)
    index = jnp.concatenate(groups)
    boxes = clip_to_window(decode(deltas[index], anchors[index], delta_weights, max_log_scale=max_log_scale), window)
    scores = objectness[index]
    if score == "probability":
        scores = jax.nn.sigmoid(scores)
    sides = boxes[:, 2:] - boxes[:, :2]
    valid = (sides >= min_side).all(1)

    if not per_level:
        selected, filled = nms(boxes, scores, iou_threshold=nms_iou, max_outputs=after_nms, valid=valid)
        return Ranked(index, boxes, scores, valid, selected, filled)

    # One small suppression matrix per level instead of a large one over all levels.
    parts, part_filled, start = [], [], 0
    for group in groups:
        level = slice(start, start + group.shape[0])
        selected, filled = nms(
            boxes[level],
            scores[level],
            iou_threshold=nms_iou,
            max_outputs=min(after_nms, group.shape[0]),
            valid=valid[level],
        )
        parts.append(selected + start)
        part_filled.append(filled)
        start += group.shape[0]
    selected, filled = jnp.concatenate(parts), jnp.concatenate(part_filled)
    ranking = jnp.where(filled, scores[selected], -jnp.inf)
    slots = min(after_nms, ranking.shape[0])
    _, order = jax.lax.top_k(ranking, slots)
    selected, filled = selected[order], filled[order]
    pad = (0, after_nms - slots)
    return Ranked(index, boxes, scores, valid, jnp.pad(selected, pad), jnp.pad(filled, pad))
