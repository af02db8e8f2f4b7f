"""Is one of two networks better, or were the images, or the seeds, just kind to it? Means, spreads, paired intervals.

Two networks are measured on the same images, and some images are easy for both. So it is the differences, image by
image, that are resampled (Efron and Tibshirani 1993, chapter 13: the percentile interval), never the two means apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES, TOGETHER = 4000, 500
LEVEL = 0.95


class Spread(NamedTuple):
    """A figure over seeds: its mean, its standard deviation (nan with one seed) and each seed's own."""

    mean: float
    deviation: float
    by_seed: list[float]


def spread(by_seed: Sequence[float]) -> Spread:
    """Mean and standard deviation (n - 1 in the denominator) over seeds; nan where a seed has no figure.

    >>> spread([0.25, 0.75]).mean, round(spread([0.25, 0.75]).deviation, 4)
    (0.5, 0.3536)
    """
    values = np.asarray(by_seed, float)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Spread(float(values.mean()), deviation, [float(v) for v in values])


def paired_interval(
    differences: Float[np.ndarray, "s n"], *, resample_seeds: bool = False, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Bootstrap interval of the mean difference between two networks, by the percentile method.

    Each resample draws n images with replacement, the same ones for both networks and for every seed, takes each
    seed's mean over them, and then the mean over the seeds.

    Args:
        differences: one network's figure less the other's, for every seed of training and image; nan where a seed was
            not measured on an image.
        resample_seeds: draw the seeds with replacement as well, so that the interval says something about trainings
            that were not done. With two or three seeds it is still too narrow for that.
        seed: of the resampling.
        level: share of the resamples inside.

    Returns:
        (low, high); nan if nothing was measured.

    Where one network is better by 0.1 on each image there is nothing to doubt:

    >>> [round(end, 6) for end in paired_interval(np.full((2, 5), 0.1))]
    [0.1, 0.1]
    """
    measured = ~np.isnan(differences)
    if not measured.any():
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    seeds, images = differences.shape
    values = np.where(measured, differences, 0.0)
    means = []
    for _ in range(RESAMPLES // TOGETHER):  # in parts: a matrix of all resamples would be large for many images
        times = rng.multinomial(images, np.full(images, 1 / images), size=TOGETHER)
        with np.errstate(invalid="ignore"):
            by_seed = (times @ values.T) / (times @ measured.T)
        if resample_seeds:
            by_seed = np.take_along_axis(by_seed, rng.integers(seeds, size=by_seed.shape), axis=1)
        means.append(by_seed.mean(1))
    low, high = np.nanquantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
