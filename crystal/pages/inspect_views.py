"""Pictures and numbers of the last stage of `crystal inspect`: the views of an image, and the crystals of them all."""

from typing import Any

import cv2
import numpy as np

from crystal.data.images import Image
from crystal.data.outlines import cut, encode_patch
from crystal.inspection.views import FollowedViews
from crystal.prediction.drop_region import outside_drops
from crystal.prediction.labels import FEW, HALO
from crystal.prediction.measurements import measure
from crystal.prediction.overlays import ORANGE, SKY, Colour, draw_outlines
from crystal.prediction.predictor import Prediction
from crystal.prediction.results import drops_and_crystals
from maskrcnn_jax.image.letterbox import fit
from maskrcnn_jax.image.tiles import View

WIDE, MEDIUM, SIDE = 1400, 700, 440  # pixels of the result, of the image at one zoom, and of a tile
TILES = 6  # shown one by one
MOST_ROWS = 200  # of the table
WHITE: Colour = (255, 255, 255)


def _within(rle: Any, view: View) -> Any:
    """A mask of the whole image, cut to a view."""
    patch, top, left = cut(rle)
    top, left = top - view.top, left - view.left
    rows, columns = slice(max(-top, 0), view.height - top), slice(max(-left, 0), view.width - left)
    return encode_patch(patch[rows, columns], max(top, 0), max(left, 0), height=view.height, width=view.width)


def _grid(picture: Image, views: list[View], scale: float) -> Image:
    """The borders of views over a picture."""
    picture = picture.copy()
    for colour, thick in ((HALO, 3), (WHITE, 1)):
        for view in views:
            x1, y1, x2, y2 = np.rint(view.box * scale).astype(int).tolist()
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, thick)
    return picture


def _tile(image: Image, view: View, rles: list[Any], labels: list[str], colours: list[Colour]) -> Image:
    part = image[view.top : view.top + view.height, view.left : view.left + view.width]
    masks = [_within(rle, view) for rle in rles]
    return draw_outlines(part, masks, labels=labels, colours=colours, scale=SIDE / view.width)


def _result(
    prediction: Prediction, classes: tuple[tuple[int, str], ...], score: float
) -> tuple[dict[int, str], list[int], int]:
    """As `predict` counts: crystals by index, with their numbers; drops; how many crystals lie outside these."""
    drops, order = drops_and_crystals(prediction, classes, score)
    shown = [i for i in order if prediction.scores[i] >= score]
    outside = outside_drops([prediction.rles[i] for i in shown], [prediction.rles[i] for i in drops])
    numbers = {i: str(n) for n, (i, out) in enumerate(zip(shown, outside, strict=True), 1) if not out}
    return numbers, drops, len(shown) - len(numbers)


def _outlined(image: Image, prediction: Prediction, numbers: dict[int, str], drops: list[int]) -> Image:
    """The result over the image, as `predict` draws it: drops below, then crystals with their numbers."""
    rims = draw_outlines(image, [prediction.rles[i] for i in drops], colours=[WHITE])
    rles, scores = [prediction.rles[i] for i in numbers], prediction.scores[list(numbers)]
    return draw_outlines(rims, rles, labels=list(numbers.values()), scores=scores, scale=WIDE / image.shape[1])


def _row(i: int, number: str, followed: FollowedViews, classes: tuple[tuple[int, str], ...]) -> dict[str, Any]:
    """Of the table: one crystal of the result."""
    found = followed.prediction
    _, x, y, length, width = measure(found.rles[i])
    view = int(followed.origin[followed.source[i]])
    return {
        "number": number,
        "name": classes[int(found.classes[i])][1],
        "score": found.scores[i],
        "zoom": found.zooms[i],
        "view": view + 1,
        "centre": (x, y),
        "sides": (length, width),
    }


def views(
    image: Image, followed: FollowedViews, *, size: tuple[int, int], classes: tuple[tuple[int, str], ...], score: float
) -> dict[str, Any]:
    """The grid of each zoom with what was found in it, the tiles that gave most, and the crystals of the result.

    Args:
        image: the file, uint8 RGB.
        followed: what was found in its views.
        size: of the network's input, (height, width).
        classes: (COCO id, name), background first.
        score: the least of a detection that is drawn and counted.
    """
    rles = [rle for one in followed.found for rle in one.rles]
    shown = np.concatenate([one.scores for one in followed.found]) >= score
    final = followed.prediction
    kept = np.isin(np.arange(len(rles)), followed.source[final.scores >= score])
    numbers, drops, outside = _result(final, classes, score)
    number = {int(followed.source[i]): text for i, text in numbers.items()}
    whole = MEDIUM / image.shape[1]

    def of(chosen: np.ndarray) -> dict[str, Any]:
        """What to draw of some detections; the duplicates first, so that they lie below."""
        order = sorted(np.flatnonzero(chosen).tolist(), key=lambda i: bool(kept[i]))
        colours = [ORANGE if kept[i] else SKY for i in order]
        return {"rles": [rles[i] for i in order], "labels": [number.get(i, "") for i in order], "colours": colours}

    zooms = []
    for zoom in dict.fromkeys(view.zoom for view in followed.views):
        own = [n for n, view in enumerate(followed.views) if view.zoom == zoom]
        here = shown & np.isin(followed.origin, own)
        drawn, first = of(here), followed.views[own[0]]
        outlines = draw_outlines(image, drawn["rles"], labels=drawn["labels"], colours=drawn["colours"], scale=whole)
        zooms.append(
            {
                "zoom": zoom,
                "views": len(own),
                "sides": (first.width, first.height),
                "scale": fit(first.height, first.width, size).scale,
                "found": int(here.sum()),
                "kept": int((here & kept).sum()),
                "picture": _grid(outlines, [followed.views[n] for n in own], whole),
            }
        )
    gave = np.bincount(followed.origin[shown & kept], minlength=len(followed.views))
    best = [n for n in np.argsort(-gave, kind="stable").tolist() if gave[n] and followed.views[n].zoom > 1][:TILES]
    return {
        "zooms": zooms,
        "tiles": [
            {
                "view": n + 1,
                "zoom": followed.views[n].zoom,
                "kept": int(gave[n]),
                "found": int((shown & (followed.origin == n)).sum()),
                "picture": _tile(image, followed.views[n], **of(shown & (followed.origin == n))),
            }
            for n in sorted(best)
        ],
        "found": int(shown.sum()),
        "crystals": len(numbers),
        "from_tiles": int((final.zooms[list(numbers)] > 1).sum()),
        "drops": len(drops),
        "outside": outside,
        "below": int((final.scores < score).sum()),
        "scored": 0 < len(numbers) <= FEW,
        "result": _outlined(image, final, numbers, drops),
        "rows": [_row(i, text, followed, classes) for i, text in list(numbers.items())[:MOST_ROWS]],
    }
