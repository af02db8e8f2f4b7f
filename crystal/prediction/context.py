"""What the other detections of a picture say about one: where one crystal is sure, others are likely.

A drop without crystals often raises a few doubtful detections, and in most drops with crystals one is beyond doubt. So
there are two thresholds, as in the hysteresis of an edge detector (Canny 1986): one that the best detection of a
picture must reach, and a lower one from which the others then count. People go on comparing scores with 0.5: scores are
stretched so that both thresholds come to lie there. The order within a picture stays.
"""

import numpy as np
from jaxtyping import Float

SURE = 0.63  # what the best detection of a picture must reach, or none counts
LEAST = 0.3  # from here on the others count, where one is sure


def in_context(scores: Float[np.ndarray, " n"], best: float) -> Float[np.ndarray, " n"]:
    """Scores of the detections of one class in one picture, so that those of 0.5 and more count.

    Args:
        scores: in [0, 1].
        best: the highest score of that class in the picture, without what lies outside its drop.

    Returns:
        Scores in [0, 1], in the same order. Where `best` reaches SURE, LEAST becomes 0.5, linear below and above it;
        elsewhere SURE would become 0.5, so that all are lower.

    >>> in_context(np.array([0.9, 0.3, 0.15]), 0.9).round(2).tolist()
    [0.93, 0.5, 0.25]
    >>> in_context(np.array([0.6, 0.3, 0.15]), 0.6).round(2).tolist()
    [0.48, 0.24, 0.12]
    """
    if best >= SURE:
        return np.interp(scores, [0, LEAST, 1], [0, 0.5, 1])
    return np.asarray(scores) * (0.5 / SURE)
