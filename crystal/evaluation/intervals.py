"""Is one of two networks better, or is the difference chance? Means, standard deviations and paired intervals.

Two networks are measured on the same images, and some images are easy for both. So the differences are resampled, image
by image (Efron and Tibshirani 1993, chapter 13: the percentile interval), and not the two means separately.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

RESAMPLES, BATCH = 4000, 200  # BATCH resamples are in memory at once
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
        differences: one network's figure minus the other's, for every training seed and image; nan where a seed was
            not measured on an image.
        resample_seeds: draw the seeds with replacement as well, so that the interval also covers how much trainings
            vary. With two or three seeds it is still too narrow for that.
        seed: of the resampling.
        level: probability that the interval is to cover, in (0, 1).

    Returns:
        (low, high); nan with fewer than two measured images.

    Where one network is better by 0.1 on each image the interval is a point:

    >>> [round(end, 6) for end in paired_interval(np.full((2, 5), 0.1))]
    [0.1, 0.1]
    """
    measured = ~np.isnan(differences)
    images, seeds = np.flatnonzero(measured.any(0)), np.arange(len(differences))
    if len(images) < 2:
        return float("nan"), float("nan")
    # A resample may hold none of the images that a seed was measured on: its mean over all of them stands in.
    means = np.nanmean(differences, axis=1)
    values = np.where(measured, differences, 0.0)

    def mean_difference(chosen_images: np.ndarray, chosen_seeds: np.ndarray = seeds, axis: int = -1) -> np.ndarray:
        cells = chosen_seeds[..., :, None].astype(int), chosen_images[..., None, :].astype(int)
        count = measured[cells].sum(axis)
        by_seed = np.where(count, values[cells].sum(axis) / np.maximum(count, 1), means[chosen_seeds.astype(int)])
        return by_seed.mean(axis)

    result = bootstrap(
        (images, seeds) if resample_seeds and len(seeds) > 1 else (images,),
        mean_difference,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
