"""The last section of `crystal inspect`'s page: what training would have drawn, asked and lost on this image."""

import html
from collections.abc import Iterator

import numpy as np

from crystal.console import printable
from crystal.data.anchor_coverage import HALF
from crystal.evaluation.assessment import prediction_of, truth_of
from crystal.evaluation.outcomes import FALSE, FOUND, MATCH_IOU, MISSED, TRUTH, ImageResult, judge
from crystal.inspection.inspector import Inspection
from crystal.inspection.targets import NoGroundTruth, TrainingTargets
from crystal.pages.inspect_features import counted, look
from crystal.pages.inspect_pictures import ORANGE, SKY, Array, draw_boxes, mask_cells, on_white
from crystal.pages.page import colour_keys, figure, table
from crystal.prediction.overlays import Colour

MOST_ROWS, TARGETS = 200, 6  # objects listed, mask targets shown
SIDE = 320  # pixels of a small picture
OUT_OF_REACH = (213, 94, 0)
LOSSES = (
    ("rpn_class", "RPN: object or not", "objectness of the drawn anchors, cross entropy"),
    ("rpn_box", "RPN: boxes", "deltas of the positive ones, smooth L1"),
    ("roi_class", "heads: class", "class of the drawn RoIs, cross entropy"),
    ("roi_box", "heads: boxes", "deltas of the positive ones, smooth L1"),
    ("roi_mask", "heads: masks", "mask cells of the positive ones, cross entropy"),
)


def without_truth(missing: NoGroundTruth) -> str:
    """The section where nobody outlined the objects."""
    return (
        "<p>Without ground truth there are no matches and no losses: "
        f"{html.escape(printable(missing.reason))}. A LabelMe file beside the image is found by itself.</p>"
    )


def _objects(training: TrainingTargets) -> Iterator[str]:
    sides = training.boxes[:, 2:] - training.boxes[:, :2]
    missed = np.flatnonzero(training.reached < HALF)
    positive = training.supervision.anchors.positive & training.supervision.anchors.valid
    drawn = np.bincount(training.owner[positive], minlength=len(sides))
    count = len(sides)
    yield "<h3>Which objects the anchors reach</h3>"
    if len(missed):
        which = f"{len(missed)} of {count} objects overlap" if len(missed) > 1 else f"1 of {count} objects overlaps"
        yield f"<p><strong>{which} no anchor by an IoU of {HALF:g}</strong>: such objects are rarely found.</p>"
    else:
        yield f"<p>Every one of the {count} objects overlaps some anchor by an IoU of {HALF:g} or more.</p>"
    rows = [
        (
            f"{n + 1}",
            f"{sides[n, 0]:.1f}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{sides[n, 1]:.1f}",
            f"{training.reached[n]:.3f}" + (", not reached" if n in missed else ""),
            f"{drawn[n]}",
            f"{training.proposed[n]:.3f}",
        )
        for n in range(min(count, MOST_ROWS))
    ]
    more = f", the first {MOST_ROWS} of {count}" if count > MOST_ROWS else ""
    header = ("object", "size, pixels", "best anchor's IoU", "positive anchors drawn", "best proposal's IoU")
    yield f"<details open><summary>Object by object{more}</summary>{table(header, rows)}</details>"


def _matches(inspection: Inspection, training: TrainingTargets) -> Iterator[str]:
    anchors, rois = training.supervision.anchors, training.supervision.rois
    reached: list[Colour] = [OUT_OF_REACH if best < HALF else TRUTH for best in training.reached]
    keys = ((TRUTH, "object"), (OUT_OF_REACH, "object out of reach"), (ORANGE, "positive"), (SKY, "negative"))
    yield f"<h3>Matches</h3><p class=keys>{colour_keys(keys)}</p><div class=grid>"
    yield figure(draw_boxes(inspection.pixels, training.boxes, reached), "The objects.", "ground truth")

    def drawn(boxes: Array, positive: Array, valid: Array) -> np.ndarray:
        # Negatives first, then positives, the objects on top.
        parts = [np.asarray(boxes[valid & ~positive]), np.asarray(boxes[valid & positive]), training.boxes]
        colours = [SKY] * len(parts[0]) + [ORANGE] * len(parts[1]) + reached
        return draw_boxes(inspection.pixels, np.concatenate(parts), colours)

    own = inspection.anchors[anchors.indices]
    rpn, roi = inspection.config.rpn, inspection.config.roi
    positive, negative = int((anchors.positive & anchors.valid).sum()), int((~anchors.positive & anchors.valid).sum())
    yield figure(
        drawn(own, anchors.positive, anchors.valid),
        f"Drawn anchors: {positive} positive (IoU {rpn.positive_iou:g} or more, or an object's best), {negative} "
        f"negative (under {rpn.negative_iou:g}).",
        "drawn anchors",
    )
    positive, negative = int((rois.positive & rois.valid).sum()), int((~rois.positive & rois.valid).sum())
    copies = " (copies of the objects among them)" if roi.truth_copies else ""
    yield figure(
        drawn(rois.boxes, rois.positive, rois.valid),
        f"Drawn RoIs{copies}: {positive} positive (IoU {roi.positive_iou:g} or more), {negative} negative.",
        "drawn RoIs",
    )
    yield "</div>"


def _targets(training: TrainingTargets) -> Iterator[str]:
    rois = training.supervision.rois
    shown = np.flatnonzero(rois.positive[: len(rois.masks)])[:TARGETS]
    if not len(shown):
        return
    m = rois.masks.shape[-1]
    yield (
        f"<h3>Mask targets</h3><p>What the mask head should answer for the first positive RoIs: the part of the "
        f"object that lies in the RoI, on {m} x {m} cells.</p><div class='grid tiles'>"
    )
    for n in shown:
        x1, y1, x2, y2 = rois.boxes[n]
        caption = f"RoI of {x2 - x1:.0f} x {y2 - y1:.0f} pixels."
        yield figure(on_white(mask_cells(rois.masks[n], rois.boxes[n]), SIDE), caption, "mask target")
    yield "</div>"


def _losses(inspection: Inspection, training: TrainingTargets) -> str:
    weight = inspection.config.rpn.box_weight
    rows = []
    for key, name, what in LOSSES:
        times = f" (x {weight:g})" if key == "rpn_box" and weight != 1 else ""
        rows.append((name + times, f"{getattr(training.losses, key):.4f}", what))
    rows.append(("together", f"{training.losses.total:.4f}", "what the optimizer makes smaller"))
    return f"<h3>The five losses</h3>{table(('loss', 'value', 'of what'), rows)}"


def _verdict(inspection: Inspection, training: TrainingTargets) -> str:
    record = training.truth.record
    result = ImageResult(record.path, truth_of(record), prediction_of(inspection.prediction))
    verdict = judge(inspection.image, result, score_threshold=0.5, scale=1000 / inspection.image.shape[1])
    key = colour_keys(((FOUND, "found"), (FALSE, "false"), (MISSED, "missed")))
    caption = f"{verdict}. Outlines of score 0.5 or more; found means a mask IoU of {MATCH_IOU:g} or more."
    return f"<h3>What became of it</h3><p class=keys>{key}</p>{figure(verdict.picture, caption, 'found and missed')}"


def with_truth(inspection: Inspection, training: TrainingTargets) -> Iterator[str]:
    """The section, of an image whose objects are known."""
    record = training.truth.record
    crowds = len(record.instances) - len(training.numbers)
    count = len(training.numbers)
    ignored = f" and {counted(crowds, 'crowd')}, to be ignored" if crowds else ""
    yield (
        f"<p>{html.escape(printable(training.truth.source.name))} outlines "
        f"{counted(count, 'object')}{ignored}. "
        "A training step compares the network's answers with them, though not at every anchor and RoI: nearly all are "
        "background, so a fixed number is drawn, at most a share of it positive. This is one such draw, of this image "
        "as it is; training would also vary the image.</p>"
    )
    if training.truth.problems:
        lines = "".join(f"<li>{html.escape(printable(problem))}</li>" for problem in training.truth.problems[:20])
        yield f"<p>Of the annotations:</p><ul>{lines}</ul>"
    if count:
        yield from _objects(training)
    yield from _matches(inspection, training)
    yield from _targets(training)
    yield _losses(inspection, training)
    yield _verdict(inspection, training)
    yield look(
        "an object without a positive anchor teaches the first stage nothing, and one without a proposal near it is "
        "not found, for the heads see nothing else. A loss of a single image says little by "
        "itself: compare it with another run's on the same image."
    )
