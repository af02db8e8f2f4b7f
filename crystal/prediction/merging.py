"""Of detections from several views of one image, one for each object: duplicates go by what their masks share.

The same crystal is found in neighbouring tiles and at several zooms, now whole, now a facet of it, now with others as
one. Suppression by boxes (`maskrcnn_jax.boxes.nms`) would take one of two needles that cross for the other's duplicate,
so masks decide, by their IoU and by how much of the smaller lies in the larger (as the boxes of Akyon et al. 2022,
"Slicing Aided Hyper Inference"). Greedy, best score first, each class for itself. Two detections of one view are no
duplicates: there the network saw both and took them for two, as of crystals that lie one over the other.

Masks that agree are one object. Where one lies in a larger, they do not tell a facet from a small crystal on a large
one. So it stays, with a lower score, as in Soft-NMS (Bodla et al. 2017): if it was sure, it still counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as rle_tools

# So one in another counts from a score of 0.75 on, where others count from 0.3 on (`context.LEAST`).
INSIDE_WEIGHT = 0.4


def _shared(rle: Mapping[str, Any], others: list[Any]) -> Float[np.ndarray, " n"]:
    """The share of a mask that lies in each of the others."""
    one: Any = [rle]
    crowds: Any = [1] * len(others)  # with these, pycocotools divides what two masks share by the area of the first
    return np.asarray(rle_tools.iou(one, others, crowds))[0] if others else np.zeros(0)


class Merged(NamedTuple):
    """What remains, best first.

    Attributes:
        kept: indices of the detections.
        scores: of these; lower than before where one lies in or around a better one.
    """

    kept: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]


def merge(
    rles: Sequence[Mapping[str, Any]],
    scores: Float[np.ndarray, " n"],
    classes: Int[np.ndarray, " n"],
    views: Int[np.ndarray, " n"],
    *,
    iou_threshold: float = 0.5,
    inside_threshold: float = 0.7,
    inside_weight: float = INSIDE_WEIGHT,
) -> Merged:
    """Select detections, best score first, that are no duplicate of one selected before.

    A detection is a duplicate of a better one of its class from another view if the IoU of their masks reaches
    `iou_threshold`. If not, but `inside_threshold` of the smaller mask lies in the larger one, its score counts
    `inside_weight` times, once, in however many it lies.

    Args:
        rles: compressed COCO RLE masks of one image's size, none empty.
        scores: of each; of equal ones the first goes first.
        classes: of each.
        views: number of the view in which each was found.
        iou_threshold: in (0, 1].
        inside_threshold: in (0, 1].
        inside_weight: in [0, 1].

    A square, the same with a row less, a quarter of it, and one beside it:

    >>> frame = np.zeros((4, 12, 4), np.uint8, order="F")
    >>> frame[:, :4, 0] = frame[:3, :4, 1] = frame[:2, :2, 2] = frame[:, 6:10, 3] = 1
    >>> merge(rle_tools.encode(frame), np.array([0.9, 0.8, 0.7, 0.6]), np.ones(4, int), np.array([0, 1, 1, 1]))
    Merged(kept=array([0, 3, 2]), scores=array([0.9 , 0.6 , 0.28]))
    """
    masks: Any = list(rles)
    weighed = np.array(scores, np.float64)
    order = np.argsort(-weighed, kind="stable")
    corners = np.array(rle_tools.toBbox(masks), np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    areas = np.array([rle_tools.area(mask) for mask in masks], np.float64)  # pycocotools fails on 256 or more at once
    kept = np.zeros(0, int)
    for i in order.tolist():
        meets = (corners[kept, :2] < corners[i, 2:]).all(1) & (corners[kept, 2:] > corners[i, :2]).all(1)
        near = kept[meets & (classes[kept] == classes[i]) & (views[kept] != views[i])]
        shared = _shared(masks[i], [masks[k] for k in near]) * areas[i]
        if (shared >= iou_threshold * (areas[i] + areas[near] - shared)).any():
            continue
        if (shared >= inside_threshold * np.minimum(areas[i], areas[near])).any():
            weighed[i] *= inside_weight
        kept = np.append(kept, i)
    kept = kept[np.argsort(-weighed[kept], kind="stable")]
    return Merged(kept, weighed[kept])
