"""Pictures and numbers for the page of `crystal inspect`: a function for each template in `templates/inspect/`."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from crystal.data.anchor_coverage import HALF
from crystal.evaluation.assessment import prediction_of, truth_of
from crystal.evaluation.outcomes import TRUTH, ImageResult, judge
from crystal.inspection.inspector import Inspection
from crystal.inspection.targets import TrainingTargets
from crystal.pages import pictures
from crystal.pages.charts import chart, hexadecimal
from crystal.pages.pictures import LEVEL_COLOURS, WIDTH, Array, Image, draw_boxes, enlarged, on_white
from crystal.prediction.overlays import ORANGE, SKY, VERMILLION, beside, over_histogram
from crystal.prediction.predictor import Prediction
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.roi.masks import paste

BEST = 60  # boxes drawn at once
SAMPLED, MASKS, TARGETS = 3, 6, 6  # RoIs whose grid is drawn, detections whose mask is, mask targets shown
SIDE = 400  # pixels of a small picture
POOLED_FROM = (2, 3, 4, 5)
MOST_OBJECTS = 200  # of a table


def level_of_anchor(inspection: Inspection) -> Int[np.ndarray, " a"]:
    """The level, 2 and up, that each anchor belongs to."""
    cells = [inspection.maps[f"P{level}"].shape[:2] for level in LEVEL_COLOURS]
    per_cell = len(inspection.config.anchors.ratios)
    return np.repeat(list(LEVEL_COLOURS), [height * width * per_cell for height, width in cells])


def image(inspection: Inspection) -> dict[str, Image | None]:
    """The file, after CLAHE, and in its letterbox."""
    equalised, window = inspection.equalised, inspection.place.window
    return {
        "file": over_histogram(enlarged(inspection.image)),
        "equalised": None if equalised is None else over_histogram(enlarged(equalised)),
        "letterboxed": draw_boxes(inspection.pixels, window[None], [ORANGE], pale=1.0),
    }


def maps(inspection: Inspection) -> list[dict[str, Any]]:
    """C1 to C5 and P2 to P6: the strength of each, and its channels that vary most."""
    return [
        {
            "name": name,
            "shape": features.shape,
            "strength": pictures.feature_map(features),
            "shown": (shown := pictures.busiest(features, 6)).tolist(),
            "picture": pictures.channels(features, shown),
        }
        for name, features in inspection.maps.items()
    ]


def _score_chart(probability: Float[np.ndarray, " a"], level: Int[np.ndarray, " a"]) -> Markup:
    def draw(axes: Axes) -> None:
        for number, dash in zip(LEVEL_COLOURS, ("-", (0, (5, 1.2)), (0, (3, 1)), (0, (1, 1)), "-."), strict=True):
            own = np.sort(probability[level == number])[::-1]
            colour = hexadecimal(LEVEL_COLOURS[number])
            axes.step(own, np.arange(1, len(own) + 1), label=f"P{number}", color=colour, ls=dash, lw=1.8)
        axes.set_yscale("log")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("objectness, probability")
        axes.set_ylabel("anchors with that or more")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    return chart("anchors by objectness", draw)


def anchors(inspection: Inspection) -> dict[str, Any]:
    """The anchors of one cell of each level, the best ones, and the objectness of every cell."""
    level = level_of_anchor(inspection)
    probability = np.exp(-np.logaddexp(0, -inspection.objectness.astype(float)))  # sigmoid, without overflow
    best = np.argsort(-inspection.objectness, kind="stable")[:BEST]
    middles = (inspection.anchors[:, :2] + inspection.anchors[:, 2:]) / 2
    # All anchors of the one cell of each level that is nearest to the best anchor's centre.
    distance = ((middles - middles[best[0]]) ** 2).sum(1)
    near = [np.flatnonzero((level == n) & (distance <= distance[level == n].min())) for n in LEVEL_COLOURS]

    def drawn(chosen: Int[np.ndarray, " n"]) -> Image:
        colours = [LEVEL_COLOURS[int(n)] for n in level[chosen]]
        return draw_boxes(inspection.pixels, inspection.anchors[chosen], colours)

    levels = []
    for number, size in zip(LEVEL_COLOURS, inspection.config.anchors.sizes, strict=True):
        rows, columns, _ = inspection.maps[f"P{number}"].shape
        cells = probability[level == number].reshape(rows, columns, -1).max(-1)
        picture = enlarged(pictures.coloured(cells, 0, 1), cells=True)
        levels.append({"name": f"P{number}", "size": size, "highest": cells.max(), "picture": picture})
    return {
        "one_cell": drawn(np.concatenate(near)),
        "best": drawn(best[::-1]),
        "shown": len(best),
        "chart": _score_chart(probability, level),
        "levels": levels,
    }


def proposals(inspection: Inspection) -> dict[str, Any]:
    """The best boxes before and after non-maximum suppression, and what the best one suppressed."""
    rule, ranked, found = inspection.config.rpn.proposals, inspection.ranked, inspection.proposals
    valid = np.flatnonzero(ranked.valid)
    order = valid[np.argsort(-ranked.scores[valid], kind="stable")]

    def drawn(boxes: Float[Array, "n 4"]) -> dict[str, Any]:
        return {"picture": draw_boxes(inspection.pixels, boxes[::-1], [SKY] * len(boxes)), "shown": len(boxes)}

    best = None
    if len(order) and found.valid.any():
        first = int(ranked.selected[0])
        level = level_of_anchor(inspection)[ranked.anchor]
        overlap = np.asarray(iou(jnp.asarray(ranked.boxes[first][None]), jnp.asarray(ranked.boxes)))[0]
        fell = ranked.valid & (overlap > rule.nms_iou) & (level == level[first] if rule.per_level else True)
        fell[first] = False
        boxes = np.concatenate([ranked.boxes[fell], ranked.boxes[first][None]])
        suppressed = int(fell.sum())
        picture = pictures.close_up(inspection.pixels, ranked.boxes[first], boxes, [SKY] * suppressed + [ORANGE])
        best = {"picture": picture, "suppressed": suppressed}
    return {
        "ranked": len(valid),
        "before": drawn(ranked.boxes[order[:BEST]]),
        "after": drawn(found.boxes[found.valid][:BEST]),
        "best": best,
    }


def levels(inspection: Inspection) -> dict[str, Any]:
    """Which level each RoI is read from."""
    valid = inspection.proposals.valid
    boxes, chosen = inspection.proposals.boxes[valid], inspection.levels[valid]
    sides = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1))

    def draw(axes: Axes) -> None:
        # From half a step lower: float32's 22.627416 lies below its own rounded-down logarithm's power.
        edges = 2.0 ** np.arange(np.floor(2 * np.log2(max(sides.min(), 1))) / 2 - 0.5, np.log2(sides.max()) + 0.75, 0.5)
        bottom = np.zeros(len(edges) - 1)
        for level in POOLED_FROM:
            count = np.histogram(np.maximum(sides[chosen == level], 1), edges)[0]
            colour = hexadecimal(LEVEL_COLOURS[level])
            axes.bar(edges[:-1], count, np.diff(edges), bottom, align="edge", color=colour, edgecolor="white", lw=0.6)
            bottom += count
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("side, pixels")
        axes.set_ylabel("RoIs")

    colours = [LEVEL_COLOURS[int(level)] for level in chosen[:BEST][::-1]]
    return {
        "sides": {level: sides[chosen == level] for level in POOLED_FROM},
        "picture": draw_boxes(inspection.pixels, boxes[:BEST][::-1], colours),
        "shown": min(BEST, len(boxes)),
        "charts": [chart("RoIs by size and level", draw)] if len(sides) else [],
        "used": np.unique(chosen).tolist(),
    }


def _classes(inspection: Inspection, index: int) -> list[tuple[str, float]]:
    """The three most probable classes of a RoI, each with its probability."""
    probabilities = inspection.probabilities[index]
    best = np.argsort(-probabilities, kind="stable")[:3]
    return [(inspection.config.classes[k][1], probabilities[k]) for k in best]


def align(inspection: Inspection) -> list[dict[str, Any]]:
    """Where the first RoIs are read, and what is pooled."""
    roi, tall = inspection.config.roi, inspection.place.size[0]
    found = []
    for place, index in enumerate(inspection.chosen[:SAMPLED].tolist()):
        features = inspection.maps[f"P{inspection.levels[index]}"]
        box = inspection.proposals.boxes[index] * features.shape[0] / tall
        # Where along the rows and the columns, without the padding of the samples and those outside the map.
        points = [axis.position[place][(axis.share[place] > 0) & axis.inside[place]] for axis in inspection.grid]
        pooled = inspection.pooled[place]
        shown = pictures.busiest(pooled, 9)
        bins = None if roi.pooling.kind == "corners" else roi.box_head.size
        found.append(
            {
                "classes": _classes(inspection, index),
                "level": int(inspection.levels[index]),
                "cells": box[2:] - box[:2],
                "points": [len(own) for own in points],
                "grid": on_white(pictures.sampling(features, box, *points, bins=bins), WIDTH),
                "strength": pictures.feature_map(pooled),
                "shown": shown.tolist(),
                "picture": pictures.channels(pooled, shown),
            }
        )
    return found


def boxes(inspection: Inspection) -> dict[str, Any]:
    """How the RoIs are classified and refined, and what NMS leaves of them."""
    proposals, refined, found = inspection.proposals, inspection.refined, inspection.detections
    valid = np.flatnonzero(refined.valid)
    best_pair = {int(refined.roi[i]): i for i in valid[::-1]}  # the best comes last
    detection = {int(refined.roi[i]): n for n, i in enumerate(refined.selected[refined.filled], 1)}
    rows, before, after = [], [], []
    for index in inspection.chosen.tolist():
        old = proposals.boxes[index]
        before.append(old)
        row = {
            "level": int(inspection.levels[index]),
            "sides": old[2:] - old[:2],
            "classes": _classes(inspection, index),
            "refined": index in best_pair,
            "detection": detection.get(index),
        }
        if row["refined"]:
            new = np.asarray(refined.boxes[best_pair[index]])
            after.append(new)
            row["shift"] = np.round((new[:2] + new[2:] - old[:2] - old[2:]) / 2, 1) + 0.0  # no -0.0
            row["growth"] = (new[2:] - new[:2]) / np.maximum(old[2:] - old[:2], 1e-6)
        rows.append(row)
    colours = [SKY] * len(before) + [ORANGE] * len(after)
    detected = found.boxes[found.valid][::-1]
    return {
        "probable": len(valid),
        "rows": rows,
        "moved": draw_boxes(inspection.pixels, np.array(before + after).reshape(-1, 4), colours),
        "before": draw_boxes(inspection.pixels, refined.boxes[valid][::-1], [SKY] * len(valid)),
        "after": draw_boxes(inspection.pixels, detected, [ORANGE] * len(detected)),
    }


def masks(inspection: Inspection) -> list[dict[str, Any]]:
    """The masks of the best detections."""
    found, (height, width) = inspection.detections, inspection.place.size
    shown = []
    for index in np.flatnonzero(found.valid)[:MASKS]:
        mask, box = np.asarray(found.masks[index]), np.asarray(found.boxes[index])
        pixels = paste(mask, box, height=height, width=width)
        cells, outline = on_white(pictures.mask_cells(mask, box), SIDE), pictures.pasted(inspection.pixels, pixels, box)
        shown.append(
            {
                "name": inspection.config.classes[int(found.classes[index])][1],
                "score": found.scores[index],
                "pixels": int(pixels.sum()),
                "picture": beside([cells, on_white(outline, SIDE)]),
            }
        )
    return shown


def training(
    inspection: Inspection, targets: TrainingTargets, prediction: Prediction, *, score: float
) -> dict[str, Any]:
    """Objects, drawn anchors and RoIs, mask targets, and which objects are found at a score."""
    anchors, rois = targets.supervision.anchors, targets.supervision.rois
    sides = targets.boxes[:, 2:] - targets.boxes[:, :2]
    per_object = np.bincount(targets.owner[anchors.positive & anchors.valid], minlength=len(sides))
    colours = [VERMILLION if best < HALF else TRUTH for best in targets.reached]

    def drawn(boxes: Array, positive: Array, valid: Array) -> dict[str, Any]:
        # Negatives first, then positives, the objects on top.
        groups = [np.asarray(boxes[valid & ~positive]), np.asarray(boxes[valid & positive])]
        of_groups = [SKY] * len(groups[0]) + [ORANGE] * len(groups[1])
        picture = draw_boxes(inspection.pixels, np.concatenate([*groups, targets.boxes]), of_groups + colours)
        return {"picture": picture, "negative": len(groups[0]), "positive": len(groups[1])}

    shown = np.flatnonzero(rois.positive[: len(rois.masks)])[:TARGETS]
    record = targets.truth.record
    result = ImageResult(record.path, truth_of(record), prediction_of(prediction, targets.truth.unlisted))
    return {
        "half": HALF,
        "missed": int((targets.reached < HALF).sum()),
        "objects": [
            {"sides": sides[n], "reached": targets.reached[n], "drawn": per_object[n], "proposed": targets.proposed[n]}
            for n in range(min(len(sides), MOST_OBJECTS))
        ],
        "truth": draw_boxes(inspection.pixels, targets.boxes, colours),
        "anchors": drawn(inspection.anchors[anchors.indices], anchors.positive, anchors.valid),
        "rois": drawn(rois.boxes, rois.positive, rois.valid),
        "masks": [
            {
                "picture": on_white(pictures.mask_cells(rois.masks[n], rois.boxes[n]), SIDE),
                "sides": rois.boxes[n][2:] - rois.boxes[n][:2],
            }
            for n in shown
        ],
        "outcome": judge(inspection.image, result, score_threshold=score, scale=1000 / inspection.image.shape[1]),
    }


SECTIONS = (image, maps, anchors, proposals, levels, align, boxes, masks)  # `training` needs the targets as well
