"""Greedy non-maximum suppression (R-CNN section 2.2) with fixed shapes, as a fixed point instead of a loop over boxes.

Greedy NMS visits the boxes in order of decreasing score and keeps each unless it overlaps a kept one too much. With
the boxes sorted and S[i, j] = (i < j and IoU(i, j) > threshold), the kept set is the only solution of

    keep[j] = not any_i (S[i, j] and keep[i])

because S is strictly upper triangular: keep[0] is fixed, then keep[1], and so on. Iterating from "all kept" reaches it
exactly, in as many rounds as the longest chain of suppressions is long (usually 3 to 10), each one matrix-vector
product; a loop over boxes takes as many rounds as there are boxes. The result equals torchvision's `nms` and
`batched_nms`, index by index.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from maskrcnn_jax import checks
from maskrcnn_jax.boxes.geometry import iou


def _greedy_fixed_point(suppresses: Bool[Array, "n n"]) -> Bool[Array, " n"]:
    """`keep` of the module docstring, where `suppresses` is S."""

    def changed(state):
        keep, previous = state
        return jnp.any(keep != previous)

    def refine(state):
        keep, _ = state
        return ~jnp.any(suppresses & keep[:, None], axis=0), keep

    all_kept = jnp.ones(suppresses.shape[0], bool)
    first = ~jnp.any(suppresses, axis=0)  # boxes that no other can suppress
    return jax.lax.while_loop(changed, refine, (~jnp.any(suppresses & first[:, None], axis=0), all_kept))[0]


@partial(jax.jit, static_argnames="max_outputs")
def _nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    iou_threshold: float | Float[ArrayLike, ""],
    valid: Bool[Array, " n"] | None,
    groups: Int[Array, " n"] | None,
    max_outputs: int,
) -> tuple[Int[Array, " max_outputs"], Bool[Array, " max_outputs"]]:
    n = boxes.shape[0]
    if n == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
    sound = ~(jnp.isnan(scores) | jnp.isnan(boxes).any(axis=1))
    valid = sound if valid is None else valid & sound
    # A valid score of -inf must still come before the invalid rows. top_k is stable (ties: lower index first), but it
    # ranks 0.0 above -0.0, which are equal.
    finite = jnp.maximum(jnp.where(scores == 0, 0.0, scores), jnp.finfo(scores.dtype).min)
    _, order = jax.lax.top_k(jnp.where(valid, finite, -jnp.inf), n)
    ranked, ranked_valid = boxes[order], valid[order]

    suppresses = jnp.triu(iou(ranked, ranked) > iou_threshold, k=1) & ranked_valid[:, None]
    if groups is not None:
        suppresses &= groups[order][:, None] == groups[order][None, :]
    keep = _greedy_fixed_point(suppresses) & ranked_valid

    ranks = jnp.nonzero(keep, size=max_outputs, fill_value=0)[0]  # ascending, so best first
    filled = jnp.arange(max_outputs) < keep.sum()
    return jnp.where(filled, order[ranks], 0).astype(jnp.int32), filled


def nms(
    boxes: Num[Array | np.ndarray, "n 4"],
    scores: Num[Array | np.ndarray, " n"],
    *,
    iou_threshold: float | Float[ArrayLike, ""],
    max_outputs: int,
    valid: Bool[Array | np.ndarray, " n"] | None = None,
    groups: Int[Array | np.ndarray, " n"] | None = None,
) -> tuple[Int[Array, " max_outputs"], Bool[Array, " max_outputs"]]:
    """Keep the best boxes that do not overlap a better, kept one by more than `iou_threshold`.

    Args:
        boxes: `[x1, y1, x2, y2]` in pixels. A box of no area overlaps nothing.
        scores: any scale, larger is better; equal scores: the lower index counts as better.
        iou_threshold: 0 to 1; a box falls at an IoU strictly above it. May be traced.
        max_outputs: number of slots in the result; static under `jit`.
        valid: rows that take part; default: all. Rows with a NaN in box or score never do.
        groups: only boxes of equal number suppress each other (NMS by class or level in one call).

    Returns:
        Indices of the kept boxes, best first, in `max_outputs` slots; and which slots are filled (the others hold 0).

    Raises:
        ValueError: other shapes or lengths, `iou_threshold` outside 0 to 1, or `max_outputs` below 0.
        TypeError: arrays of another kind, or boxes of 16 bits.

    The second box below overlaps the first at an IoU of 9/11 and is suppressed, the third overlaps neither:

    >>> boxes = jnp.array([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    >>> indices, filled = nms(boxes, jnp.array([0.9, 0.8, 0.7]), iou_threshold=0.5, max_outputs=3)
    >>> indices[filled].tolist()
    [0, 2]
    """
    boxes, scores = checks.as_boxes("nms: boxes", boxes, "n 4"), checks.as_floats("nms: scores", scores, "n")
    checks.kind("nms: valid", valid, np.bool_, "n")
    checks.kind("nms: groups", groups, np.integer, "n")
    checks.same_length("nms", boxes=boxes, scores=scores, valid=valid, groups=groups)
    checks.in_range("nms: iou_threshold", iou_threshold, 0, 1)
    checks.whole("nms: max_outputs", max_outputs, least=0)
    return _nms(boxes, scores, iou_threshold, valid, groups, max_outputs)
