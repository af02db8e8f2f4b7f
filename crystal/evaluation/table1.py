"""The figures of Table 1 and beyond: of each arm over seeds, and of the paired differences between arms.

An evaluation is what `crystal table1` keeps of a run: `numbers` by name, `drawn` (indices of the 10 and the 100
images), and `ap`, each image's average precision by IoU threshold, null where it has no object.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from crystal.evaluation.intervals import paired_interval, spread

Evaluation = Mapping[str, Any]


class Measure(NamedTuple):
    """A row of the table.

    Attributes:
        title: for people.
        iou: threshold of the mAP, as a key of `ap`; None for what is no mean over images, and has no interval.
        drawn: which images it is the mean of, as a key of `drawn`; None for all.
        paper: Crystals 2021, Table 1, without and with CLAHE.
    """

    title: str
    iou: str | None = None
    drawn: str | None = None
    paper: tuple[float, float] | None = None


MEASURES = {
    "map_050_10": Measure("mAP, IoU 0.50, 10 images", "0.50", "10", (0.668, 0.703)),
    "map_065_100": Measure("mAP, IoU 0.65, 100 images", "0.65", "100", (0.302, 0.430)),
    "map_050_100": Measure("mAP, IoU 0.50, 100 images", "0.50", "100"),
    "map_050_all": Measure("mAP, IoU 0.50, all images", "0.50"),
    "map_065_all": Measure("mAP, IoU 0.65, all images", "0.65"),
    "coco_segm_ap": Measure("COCO AP of masks"),
    "coco_segm_ap50": Measure("COCO AP50 of masks"),
    "coco_bbox_ap": Measure("COCO AP of boxes"),
    "precision": Measure("precision, score 0.5"),
    "recall": Measure("recall, score 0.5"),
}
# (title, one arm, the other): the figure of the second less that of the first.
COMPARISONS = {
    "clahe": ("CLAHE: with minus without", "plain", "clahe"),
    "init": ("Transfer: weights of --init minus random weights, both with CLAHE", "scratch", "clahe"),
}


def ap_matrix(evaluations: Sequence[Evaluation], measure: Measure) -> Float[np.ndarray, "s n"]:
    """Average precision by seed and image; nan for images without objects, and those that were not drawn."""
    matrix = np.array([[np.nan if v is None else v for v in one["ap"][measure.iou]] for one in evaluations], float)
    if measure.drawn is not None:
        for row, one in zip(matrix, evaluations, strict=True):
            row[np.setdiff1d(np.arange(len(row)), one["drawn"][measure.drawn])] = np.nan
    return matrix


def _by_seed(evaluations: Sequence[Evaluation], key: str, measure: Measure) -> list[float]:
    if measure.iou is not None:
        return [float(np.nanmean(row)) for row in ap_matrix(evaluations, measure)]
    return [np.nan if (value := one["numbers"][key]) is None else float(value) for one in evaluations]


def _images(evaluation: Evaluation, measure: Measure) -> int:
    """Of how many images the figure is: those with objects where it is a mean over images."""
    if measure.iou is None:
        return len(next(iter(evaluation["ap"].values())))
    return int((~np.isnan(ap_matrix([evaluation], measure))).sum())


def _difference(
    first: Sequence[Evaluation], second: Sequence[Evaluation], key: str, measure: Measure
) -> dict[str, Any]:
    by_seed = np.subtract(_by_seed(second, key, measure), _by_seed(first, key, measure))
    found: dict[str, Any] = spread(by_seed.tolist())._asdict()
    if measure.iou is not None:
        differences = ap_matrix(second, measure) - ap_matrix(first, measure)
        found["interval_images"] = paired_interval(differences)
        found["interval_images_and_seeds"] = paired_interval(differences, resample_seeds=True)
    return found


def measures(evaluations: Mapping[str, Sequence[Evaluation]]) -> dict[str, dict[str, Any]]:
    """For every measure: of how many images it is, each arm's mean, deviation and values by seed, the paper's, and the
    differences.

    Args:
        evaluations: of each arm, one a seed, the same seeds and images for all.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, measure in MEASURES.items():
        arms = {arm: spread(_by_seed(own, key, measure))._asdict() for arm, own in evaluations.items()}
        differences = {
            name: _difference(evaluations[first], evaluations[second], key, measure)
            for name, (_, first, second) in COMPARISONS.items()
            if first in evaluations and second in evaluations
        }
        images = _images(next(iter(evaluations.values()))[0], measure)
        found[key] = {"title": measure.title, "images": images, "paper": measure.paper}
        found[key] |= {"arms": arms, "differences": differences}
    return found
