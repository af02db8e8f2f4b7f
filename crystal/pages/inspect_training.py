"""Pictures and numbers for the last section of `crystal inspect`'s page: what training would have drawn and matched."""

from typing import Any

import numpy as np

from crystal.data.anchor_coverage import HALF
from crystal.evaluation.assessment import prediction_of, truth_of
from crystal.evaluation.outcomes import TRUTH, ImageResult, judge
from crystal.inspection.inspector import Inspection
from crystal.inspection.targets import TrainingTargets
from crystal.pages.pictures import ORANGE, SKY, Array, draw_boxes, mask_cells, on_white
from crystal.prediction.overlays import VERMILLION

MOST_ROWS, TARGETS = 200, 6  # objects listed, mask targets shown
SIDE = 320  # pixels of a small picture
SCORE = 0.5  # the least of a prediction that is drawn and counted
OUT_OF_REACH = VERMILLION


def training(inspection: Inspection, targets: TrainingTargets) -> dict[str, Any]:
    """Objects, drawn anchors and RoIs, mask targets, and which objects were found."""
    anchors, rois = targets.supervision.anchors, targets.supervision.rois
    sides = targets.boxes[:, 2:] - targets.boxes[:, :2]
    per_object = np.bincount(targets.owner[anchors.positive & anchors.valid], minlength=len(sides))
    colours = [OUT_OF_REACH if best < HALF else TRUTH for best in targets.reached]

    def drawn(boxes: Array, positive: Array, valid: Array) -> dict[str, Any]:
        # Negatives first, then positives, the objects on top.
        groups = [np.asarray(boxes[valid & ~positive]), np.asarray(boxes[valid & positive])]
        of_groups = [SKY] * len(groups[0]) + [ORANGE] * len(groups[1])
        picture = draw_boxes(inspection.pixels, np.concatenate([*groups, targets.boxes]), of_groups + colours)
        return {"picture": picture, "negative": len(groups[0]), "positive": len(groups[1])}

    shown = np.flatnonzero(rois.positive[: len(rois.masks)])[:TARGETS]
    record = targets.truth.record
    result = ImageResult(record.path, truth_of(record), prediction_of(inspection.prediction))
    return {
        "half": HALF,
        "score": SCORE,
        "missed": int((targets.reached < HALF).sum()),
        "objects": [
            {"sides": sides[n], "reached": targets.reached[n], "drawn": per_object[n], "proposed": targets.proposed[n]}
            for n in range(min(len(sides), MOST_ROWS))
        ],
        "truth": draw_boxes(inspection.pixels, targets.boxes, colours),
        "anchors": drawn(inspection.anchors[anchors.indices], anchors.positive, anchors.valid),
        "rois": drawn(rois.boxes, rois.positive, rois.valid),
        "masks": [
            {
                "picture": on_white(mask_cells(rois.masks[n], rois.boxes[n]), SIDE),
                "sides": rois.boxes[n][2:] - rois.boxes[n][:2],
            }
            for n in shown
        ],
        "outcome": judge(inspection.image, result, score_threshold=SCORE, scale=1000 / inspection.image.shape[1]),
    }
