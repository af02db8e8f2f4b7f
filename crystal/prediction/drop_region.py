"""The drop itself, where a model has learnt a class of that name: which crystals lie outside.

Models without such a class say nothing about drops; all their crystals count. A tile shows a part of a drop, whose
outline would end at the tile, so drops are taken from the view of the whole image (`predictor.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as rle_tools

INSIDE = 0.5  # of a crystal's pixels must lie in a drop


def outside_drops(crystals: Sequence[Mapping[str, Any]], drops: Sequence[Mapping[str, Any]]) -> Bool[np.ndarray, " n"]:
    """Which crystals lie outside the drops: less than half of their pixels belong to any of them.

    Args:
        crystals: compressed COCO RLE.
        drops: the same, of the same image. Where there are none, no drop is in sight and no crystal is outside.

    Returns:
        A bool a crystal.
    """
    if not crystals or not drops:
        return np.zeros(len(crystals), bool)
    liquid = rle_tools.merge(list(drops))  # type: ignore[arg-type]
    # With a "crowd", pycocotools divides the intersection by the first mask's area alone.
    covered = np.asarray(rle_tools.iou(list(crystals), [liquid], [1])).reshape(-1)  # type: ignore[arg-type]
    return covered < INSIDE
