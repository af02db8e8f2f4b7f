"""Pictures and numbers of the last stage of `crystal inspect`: the views of an image, and the crystals of them all."""

from typing import Any

import cv2
import numpy as np

from crystal.data.images import Image
from crystal.data.outlines import cut, encode_patch
from crystal.inspection.views import FollowedViews
from crystal.prediction.labels import FEW, HALO
from crystal.prediction.measurements import measure
from crystal.prediction.overlays import ORANGE, SKY, Colour, draw_outlines
from maskrcnn_jax.image.letterbox import fit
from maskrcnn_jax.image.tiles import View

WIDE, MEDIUM, SIDE = 1400, 700, 440  # pixels of the result, of the image at one zoom, and of a tile
TILES = 6  # shown one by one
MOST_ROWS = 200  # of the table
GRID: Colour = (255, 255, 255)


def _within(rle: Any, view: View) -> Any:
    """A mask of the whole image, cut to a view."""
    patch, top, left = cut(rle)
    top, left = top - view.top, left - view.left
    rows, columns = slice(max(-top, 0), view.height - top), slice(max(-left, 0), view.width - left)
    return encode_patch(patch[rows, columns], max(top, 0), max(left, 0), height=view.height, width=view.width)


def _grid(picture: Image, views: list[View], scale: float) -> Image:
    """The borders of views over a picture."""
    picture = picture.copy()
    for colour, thick in ((HALO, 3), (GRID, 1)):
        for view in views:
            x1, y1, x2, y2 = np.rint(view.box * scale).astype(int).tolist()
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, thick)
    return picture


def _tile(image: Image, view: View, rles: list[Any], labels: list[str], colours: list[Colour]) -> Image:
    part = image[view.top : view.top + view.height, view.left : view.left + view.width]
    masks = [_within(rle, view) for rle in rles]
    return draw_outlines(part, masks, labels=labels, colours=colours, scale=SIDE / view.width)


def _row(number: int, followed: FollowedViews, classes: tuple[tuple[int, str], ...]) -> dict[str, Any]:
    """Of the table: one crystal of the result."""
    found, i = followed.prediction, number - 1
    _, x, y, length, width = measure(found.rles[i])
    view = int(followed.origin[followed.source[i]])
    return {
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
    counted = int((followed.prediction.scores >= score).sum())
    number = {int(source): str(n) for n, source in enumerate(followed.source[:counted], 1)}
    whole = MEDIUM / image.shape[1]

    def of(chosen: np.ndarray) -> dict[str, Any]:
        """What to draw of some detections; the duplicates first, so that they lie below."""
        order = sorted(np.flatnonzero(chosen).tolist(), key=lambda i: bool(followed.kept[i]))
        colours = [ORANGE if followed.kept[i] else SKY for i in order]
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
                "kept": int((here & followed.kept).sum()),
                "picture": _grid(outlines, [followed.views[n] for n in own], whole),
            }
        )
    gave = np.bincount(followed.origin[shown & followed.kept], minlength=len(followed.views))
    best = [n for n in np.argsort(-gave, kind="stable").tolist() if gave[n] and followed.views[n].zoom > 1][:TILES]
    final = followed.prediction
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
        "crystals": counted,
        "below": len(final.scores) - counted,
        "scored": 0 < counted <= FEW,
        "result": draw_outlines(
            image,
            final.rles[:counted],
            labels=[str(n) for n in range(1, counted + 1)],
            scores=final.scores[:counted],
            scale=WIDE / image.shape[1],
        ),
        "rows": [_row(n, followed, classes) for n in range(1, min(counted, MOST_ROWS) + 1)],
    }
