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
    """The n boxes that are held against each other, and which of them the p slots of the proposals show."""

    anchor: Int[Array, " n"]  # the anchor that each was
    boxes: Float[Array, "n 4"]
    scores: Float[Array, " n"]
    valid: Bool[Array, " n"]  # False: a side under `min_side`
    kept: Int[Array, " p"]
    filled: Bool[Array, " p"]

    def proposals(self) -> Proposals:
        """The p that remain."""
        boxes = jnp.where(self.filled[:, None], self.boxes[self.kept], 0.0)
        return Proposals(boxes, self.scores[self.kept], self.filled)


def _best_per_level(objectness: Float[Array, " a"], level_sizes: tuple[int, ...], limit: int) -> list[Array]:
    """Indices into all anchors of the `limit` best logits of each level."""
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
    """Proposals of one image in `after_nms` slots, best first, clipped to `window`, beside what they were chosen among:
    `propose(...).proposals()` are those alone.

    `level_sizes`: anchors of each level. Per level, or over all of them together, the `before_nms` best by logit are
    decoded and suppressed at `nms_iou`; then the `after_nms` best of all remain. `score` says what the suppression and
    the last cut rank by: "logit", or "probability", which ties where float32's sigmoid saturates. Boxes with a side
    under `min_side` are dropped.

    Three anchors, not moved: the second overlaps the best by 9/11 and falls, the third is clipped to the window. By
    their logits they rank 3, 1, 2, and the first two of that order remain:

    >>> anchors = jnp.array([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 40.0, 10.0]])
    >>> options = dict(level_sizes=(3,), per_level=True, score="logit", before_nms=3, after_nms=3, nms_iou=0.7)
    >>> ranked = propose(jnp.array([2.0, 1.0, 3.0]), jnp.zeros((3, 4)), anchors, jnp.array([0.0, 0.0, 32.0, 32.0]),
    ...     **options, min_side=0.0, delta_weights=(1, 1, 1, 1), max_log_scale=None)
    >>> ranked.anchor.tolist(), ranked.kept[ranked.filled].tolist()
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
        kept, filled = nms(boxes, scores, iou_threshold=nms_iou, max_outputs=after_nms, valid=valid)
        return Ranked(index, boxes, scores, valid, kept, filled)

    # One small suppression matrix a level instead of a large one over all: a fifth of the work.
    survivors, alive, start = [], [], 0
    for group in groups:
        part = slice(start, start + group.shape[0])
        kept, filled = nms(
            boxes[part],
            scores[part],
            iou_threshold=nms_iou,
            max_outputs=min(after_nms, group.shape[0]),
            valid=valid[part],
        )
        survivors.append(kept + start)
        alive.append(filled)
        start += group.shape[0]
    kept, filled = jnp.concatenate(survivors), jnp.concatenate(alive)
    ranking = jnp.where(filled, scores[kept], -jnp.inf)
    slots = min(after_nms, ranking.shape[0])
    _, order = jax.lax.top_k(ranking, slots)
    kept, filled = kept[order], filled[order]
    pad = (0, after_nms - slots)
    return Ranked(index, boxes, scores, valid, jnp.pad(kept, pad), jnp.pad(filled, pad))
