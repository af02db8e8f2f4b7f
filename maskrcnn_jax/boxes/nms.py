"""Greedy non-maximum suppression (R-CNN section 2.2) with fixed shapes, as a fixed point instead of a loop over boxes.

Greedy NMS goes through the boxes from the best score down and keeps one unless it overlaps a kept one too much. With
the boxes sorted and S[i, j] = (i < j and IoU(i, j) > threshold), the kept set is the only solution of

    keep[j] = not any_i (S[i, j] and keep[i])

because S is strictly upper triangular: keep[0] is fixed, then keep[1], and so on. Iterating from "all kept" reaches it
exactly, in as many rounds as the longest chain of suppressions is long (3 to 10 in practice), each one matrix-vector
product. A `lax` loop over boxes gives the same and costs thousands of rounds. Survivors are those of torchvision's
`nms` and `batched_nms`, index by index.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.boxes.geometry import iou


def _greedy_fixed_point(suppresses: Bool[Array, "n n"]) -> Bool[Array, " n"]:
    def unsettled(state):
        keep, previous = state
        return jnp.any(keep != previous)

    def refine(state):
        keep, _ = state
        return ~jnp.any(suppresses & keep[:, None], axis=0), keep

    everything = jnp.ones(suppresses.shape[0], bool)
    first = ~jnp.any(suppresses, axis=0)  # a box that nothing could suppress is kept for good
    return jax.lax.while_loop(unsettled, refine, (~jnp.any(suppresses & first[:, None], axis=0), everything))[0]


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    iou_threshold: float | Float[Array, ""],
    max_outputs: int,
    valid: Bool[Array, " n"] | None = None,
    groups: Int[Array, " n"] | None = None,
) -> tuple[Int[Array, " max_outputs"], Bool[Array, " max_outputs"]]:
    """Indices of the boxes that survive, best first, in `max_outputs` slots, and which slots are filled.

    Box j falls if its IoU with a better, kept box is strictly over `iou_threshold`. Ties in score: the lower index
    counts as better. A box of no area overlaps nothing. Rows that are not `valid`, or whose score is NaN, take no part.
    With `groups`, only boxes of equal id suppress each other (class-wise or level-wise NMS in one call).

    The second box below overlaps the first by 9/11 and falls, the third stands apart:

    >>> boxes = jnp.array([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    >>> indices, filled = nms(boxes, jnp.array([0.9, 0.8, 0.7]), iou_threshold=0.5, max_outputs=3)
    >>> indices[filled].tolist()
    [0, 2]
    """
    n = boxes.shape[0]
    if n == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
    valid = ~jnp.isnan(scores) if valid is None else valid & ~jnp.isnan(scores)
    # A valid score of -inf must still come before the invalid rows. top_k is stable: ties come lower index first; but
    # it ranks 0.0 above -0.0, which are equal.
    finite = jnp.maximum(jnp.where(scores == 0, 0.0, scores), jnp.finfo(scores.dtype).min)
    _, order = jax.lax.top_k(jnp.where(valid, finite, -jnp.inf), n)
    ranked, taking_part = boxes[order], valid[order]

    suppresses = jnp.triu(iou(ranked, ranked) > iou_threshold, k=1) & taking_part[:, None]
    if groups is not None:
        suppresses &= groups[order][:, None] == groups[order][None, :]
    keep = _greedy_fixed_point(suppresses) & taking_part

    survivors = jnp.nonzero(keep, size=max_outputs, fill_value=0)[0]  # ranks, so still best first
    filled = jnp.arange(max_outputs) < keep.sum()
    return jnp.where(filled, order[survivors], 0).astype(jnp.int32), filled
