"""Pictures and numbers for the second half of `crystal inspect`'s page: from proposals to outlined crystals.

Each function makes what the template of the same name in `templates/inspect/` shows. A few RoIs, the same in all
sections, are shown one by one.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from crystal.inspection.inspector import Inspection
from crystal.pages.charts import chart, hexadecimal
from crystal.pages.inspect_features import BEST
from crystal.pages.pictures import (
    LEVEL_COLOURS,
    ORANGE,
    SKY,
    WIDTH,
    busiest,
    channels,
    draw_boxes,
    feature_map,
    mask_cells,
    on_white,
    pasted,
    sampling,
)
from crystal.prediction.overlays import MAX_LABELS, beside, draw_outlines
from maskrcnn_jax.roi.masks import paste

SAMPLED, MASKS = 3, 6  # RoIs whose grid is drawn, detections whose mask is
SIDE = 400  # pixels of a small picture
POOLED_FROM = (2, 3, 4, 5)


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
        points = [axis.position[place][axis.used[place] & axis.inside[place]] for axis in inspection.grid]
        pooled = inspection.pooled[place]
        shown = busiest(pooled, 9)
        bins = None if roi.pooling == "corners" else roi.box_size
        found.append(
            {
                "classes": _classes(inspection, index),
                "level": int(inspection.levels[index]),
                "cells": box[2:] - box[:2],
                "points": [len(own) for own in points],
                "grid": on_white(sampling(features, box, *points, bins=bins), WIDTH),
                "strength": feature_map(pooled),
                "shown": shown.tolist(),
                "picture": channels(pooled, shown),
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


def masks(inspection: Inspection) -> dict[str, Any]:
    """The masks of the best detections, and all outlines in the file's own pixels."""
    found, (height, width) = inspection.detections, inspection.place.size
    shown = []
    for index in np.flatnonzero(found.valid)[:MASKS]:
        mask, box = np.asarray(found.masks[index]), np.asarray(found.boxes[index])
        pixels = paste(mask, box, height=height, width=width)
        cells, outline = on_white(mask_cells(mask, box), SIDE), pasted(inspection.pixels, pixels, box)
        shown.append(
            {
                "name": inspection.config.classes[int(found.classes[index])][1],
                "score": found.scores[index],
                "pixels": int(pixels.sum()),
                "picture": beside([cells, on_white(outline, SIDE)]),
            }
        )
    labels = [f"{score:.2f}" for score in inspection.prediction.scores]
    rles, scale = inspection.prediction.rles, 1000 / max(inspection.image.shape[1], 1)
    return {
        "detections": shown,
        "result": draw_outlines(inspection.image, rles, labels=labels, scale=scale),
        "outlines": len(rles),
        "scored": 0 < len(rles) <= MAX_LABELS,
    }
