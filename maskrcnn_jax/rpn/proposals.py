"""From objectness and deltas to proposals: rank, decode, clip, suppress (Faster R-CNN section 3.3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.boxes.coding import decode
from maskrcnn_jax.boxes.geometry import clip_to_window
from maskrcnn_jax.boxes.nms import nms
from maskrcnn_jax.config import BoxCoding, ProposalConfig
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


def _select_per_level(
    groups: list[Array],
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    valid: Bool[Array, " n"],
    *,
    nms_iou: float,
    after_nms: int,
) -> tuple[Int[Array, " p"], Bool[Array, " p"]]:
    """NMS of each level's candidates, then the best of all levels: one small suppression matrix per level instead of a
    large one. All levels are suppressed together, the smaller ones filled up with boxes that are not valid: on GPUs the
    host decides how long a loop goes on, and here it decides once for all.
    """
    sizes = np.array([group.shape[0] for group in groups])
    most, ends = int(sizes.max()), sizes.cumsum()

    def by_level(values: Array) -> Array:
        parts = jnp.split(values, ends[:-1])
        return jnp.stack([jnp.pad(p, [(0, most - p.shape[0])] + [(0, 0)] * (p.ndim - 1)) for p in parts])

    def suppress(boxes: Array, scores: Array, valid: Array) -> tuple[Array, Array]:
        return nms(boxes, scores, iou_threshold=nms_iou, max_outputs=min(after_nms, most), valid=valid)

    selected, filled = jax.vmap(suppress)(by_level(boxes), by_level(scores), by_level(valid))
    selected, filled = (selected + (ends - sizes)[:, None]).reshape(-1), filled.reshape(-1)
    slots = min(after_nms, selected.shape[0])
    _, order = jax.lax.top_k(jnp.where(filled, scores[selected], -jnp.inf), slots)
    pad = (0, after_nms - slots)
    return jnp.pad(selected[order], pad), jnp.pad(filled[order], pad)


def propose(
    objectness: Float[Array, " a"],
    deltas: Float[Array, "a 4"],
    anchors: Float[Array | np.ndarray, "a 4"],
    window: Float[Array | np.ndarray, " 4"],
    *,
    level_sizes: tuple[int, ...],
    config: ProposalConfig,
    coding: BoxCoding,
    training: bool = False,
) -> Ranked:
    """The candidates of one image and the proposals among them; `propose(...).proposals()` gives the proposals alone.

    The best anchors by logit, of each level or of all levels together, are decoded, clipped and suppressed; the best of
    the rest are the proposals. Everything but the arrays is static under `jit`.

    Args:
        objectness: logits.
        deltas: of every anchor.
        anchors: boxes in pixels.
        window: the part of the image that proposals are clipped to.
        level_sizes: number of anchors per level.
        config: limits before and after NMS, its threshold, and what candidates are ranked by.
        coding: scale and limit of the deltas.
        training: which of the two limits holds.

    Returns:
        Candidates, and indices of the proposals in `after_nms` slots, best first.

    Three anchors, not moved: the second overlaps the first at an IoU of 9/11 and is suppressed, the third is clipped to
    the window. By logit they rank third, first, second, and the first two of that order are selected:

    >>> anchors = jnp.array([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 40.0, 10.0]])
    >>> window, rule = jnp.array([0.0, 0.0, 32.0, 32.0]), ProposalConfig(score="logit", after_nms=(3, 3))
    >>> logits = jnp.array([2.0, 1.0, 3.0])
    >>> ranked = propose(logits, jnp.zeros((3, 4)), anchors, window, level_sizes=(3,), config=rule, coding=BoxCoding())
    >>> ranked.anchor.tolist(), ranked.selected[ranked.filled].tolist()
    ([2, 0, 1], [0, 1])
    >>> ranked.proposals().boxes[:2].tolist()
    [[20.0, 0.0, 32.0, 10.0], [0.0, 0.0, 10.0, 10.0]]
    """
    before_nms, after_nms = (limits[0 if training else 1] for limits in (config.before_nms, config.after_nms))
    groups = _best_per_level(objectness, level_sizes if config.per_level else (objectness.shape[0],), before_nms)
    index = jnp.concatenate(groups)
    moved = decode(deltas[index], anchors[index], coding.weights, max_log_scale=coding.max_log_scale)
    boxes, scores = clip_to_window(moved, window), objectness[index]
    if config.score == "probability":  # ties where the sigmoid saturates in float32
        scores = jax.nn.sigmoid(scores)
    valid = (boxes[:, 2:] - boxes[:, :2] >= config.min_side).all(1)
    selected, filled = _select_per_level(groups, boxes, scores, valid, nms_iou=config.nms_iou, after_nms=after_nms)
    return Ranked(index, boxes, scores, valid, selected, filled)
