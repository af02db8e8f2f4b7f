"""Random, balanced samples of positives and negatives, of fixed size (Fast R-CNN section 2.3).

Almost every anchor is background; trained on all of them, the network would learn to predict background everywhere.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, PRNGKeyArray

from maskrcnn_jax import checks
from maskrcnn_jax.boxes.matching import Label


class Samples(NamedTuple):
    """Sampled candidates: positives first, then negatives, then unfilled slots."""

    indices: Int[Array, " total"]
    positive: Bool[Array, " total"]
    valid: Bool[Array, " total"]


@partial(jax.jit, static_argnames=("total", "max_positive", "negatives_per_positive"))
def sample_balanced(
    key: PRNGKeyArray,
    label: Int[Array | np.ndarray, " n"],
    *,
    total: int,
    max_positive: int,
    negatives_per_positive: float | None = None,
) -> Samples:
    """Sample up to `max_positive` of the positives and fill the rest of `total` slots with negatives, both uniformly
    without replacement.

    Args:
        key: of the draw.
        label: a `Label` for each candidate.
        total: number of slots; static under `jit`, as the two below.
        max_positive: at most `total`. Positives are in the first `max_positive` slots, so the mask head can run on
            those alone.
        negatives_per_positive: limits the negatives to int(positives * negatives_per_positive). Matterport keeps the
            ratio even where that leaves slots empty, so that an image without positives gets no samples at all.

    Returns:
        Indices of candidates, with the slots that hold positives and those that hold anything.

    Raises:
        ValueError: labels of another shape, or a count that is negative or above `total`.
        TypeError: labels that are not integers, or a count that is not one.

    >>> label = jnp.array([1, 0, -1, 0, 1, 0])
    >>> s = sample_balanced(jax.random.key(0), label, total=4, max_positive=1)
    >>> s.positive.tolist(), label[s.indices].tolist()
    ([True, False, False, False], [1, 0, 0, 0])
    """
    checks.kind("sample_balanced: label", label, np.integer, "n")
    checks.whole("sample_balanced: total", total, least=0)
    checks.whole("sample_balanced: max_positive", max_positive, least=0)
    checks.in_range("sample_balanced: max_positive", max_positive, 0, total)
    n = label.shape[0]
    priority = jax.random.uniform(key, (n,))

    def draw(kind: Label, most: int) -> tuple[Int[Array, " total"], Int[Array, ""]]:
        candidates = label == kind
        _, index = jax.lax.top_k(jnp.where(candidates, priority, -1.0), min(most, n))
        return jnp.pad(index, (0, total - index.shape[0])), jnp.minimum(candidates.sum(), most)

    positive_index, positives = draw(Label.POSITIVE, max_positive)
    negative_index, negatives = draw(Label.NEGATIVE, total)
    if negatives_per_positive is not None:
        checks.in_range("sample_balanced: negatives_per_positive", negatives_per_positive, 0, math.inf)
        # By Python's numbers: a float32 product can fall just below a whole one.
        most = [int(min(n * negatives_per_positive, total)) if n else 0 for n in range(max_positive + 1)]
        negatives = jnp.minimum(negatives, jnp.array(most, jnp.int32)[positives])
    slot = jnp.arange(total)
    is_positive = slot < positives
    index = jnp.where(is_positive, positive_index, negative_index[jnp.maximum(slot - positives, 0)])
    return Samples(index.astype(jnp.int32), is_positive, slot < positives + negatives)


def image_keys(key: PRNGKeyArray, b: int, *, axis: str | None = None) -> Key[Array, "2 b"]:
    """Two keys for each of b images: for sampling its anchors and its RoIs.

    Args:
        key: of the step.
        b: images of this device.
        axis: mesh axis over which the batch is sharded; the keys are then this device's part of the whole batch's, so
            that the samples of an image do not depend on the device that it is on.

    >>> image_keys(jax.random.key(0), 3).shape
    (2, 3)
    """
    if axis is None:
        return jax.random.split(key, (2, b))
    keys = jax.random.split(key, (2, b * jax.lax.axis_size(axis)))
    return jax.lax.dynamic_slice_in_dim(keys, jax.lax.axis_index(axis) * b, b, axis=1)
