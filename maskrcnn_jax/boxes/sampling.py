"""Random, balanced samples of positives and negatives, of fixed size (Fast R-CNN section 2.3).

Almost every anchor is background; trained on all of them, the network would learn to predict background everywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from maskrcnn_jax.boxes.matching import Label


class Samples(NamedTuple):
    """Sampled candidates: positives first, then negatives, then unfilled slots."""

    indices: Int[Array, " total"]
    positive: Bool[Array, " total"]
    valid: Bool[Array, " total"]


def sample_balanced(
    key: PRNGKeyArray,
    label: Int[Array, " n"],
    *,
    total: int,
    max_positive: int,
    negatives_per_positive: float | None = None,
) -> Samples:
    """Sample up to `max_positive` of the positives and fill the rest of `total` slots with negatives, both uniformly
    without replacement. Positives are in the first `max_positive` slots, so the mask head can run on those alone.

    `negatives_per_positive` limits the negatives to int(positives * negatives_per_positive): Matterport keeps the ratio
    even where that leaves slots empty, so that an image without positives gets no samples at all.

    >>> label = jnp.array([1, 0, -1, 0, 1, 0])
    >>> s = sample_balanced(jax.random.key(0), label, total=4, max_positive=1)
    >>> s.positive.tolist(), label[s.indices].tolist()
    ([True, False, False, False], [1, 0, 0, 0])
    """
    n = label.shape[0]
    priority = jax.random.uniform(key, (n,))

    def draw(candidates, slots):
        _, index = jax.lax.top_k(jnp.where(candidates, priority, -1.0), min(slots, n))
        return jnp.pad(index, (0, slots - min(slots, n))), jnp.minimum(candidates.sum(), slots)

    positive_index, positives = draw(label == Label.POSITIVE, max_positive)
    negative_index, negatives = draw(label == Label.NEGATIVE, total)
    if negatives_per_positive is not None:
        negatives = jnp.minimum(negatives, jnp.floor(positives * negatives_per_positive).astype(jnp.int32))
    slot = jnp.arange(total)
    is_positive = slot < positives
    index = jnp.where(
        is_positive,
        positive_index[jnp.minimum(slot, max_positive - 1)],
        negative_index[jnp.maximum(slot - positives, 0)],
    )
    return Samples(index.astype(jnp.int32), is_positive, slot < positives + negatives)
