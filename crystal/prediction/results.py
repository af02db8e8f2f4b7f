"""What was found in one picture, measured: crystals, the drop, points; the one source of the tables and of the page.

A result can be written as JSON and read again, so that `--watch` goes on where it stopped.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from crystal.data.classes import is_drop
from crystal.data.coco_file import coco_annotation
from crystal.data.outlines import Mask, contours, cut
from crystal.prediction.drop_region import outside_drops
from crystal.prediction.measurements import measure
from crystal.prediction.points import Inmost, dispensing_point, shooting_point
from crystal.prediction.predictor import Prediction

LEAST_SCORE = 0.1  # crystals below it are in predictions.json alone: the page's slider begins here
MOST_BELOW = 200  # crystals of a picture below the threshold that are measured, the best first
PICTURE_WIDTH, PICTURE_QUALITY = 800, 70  # of the JPEG that the page holds

Outline = list[list[int]]  # a flat x, y, x, y, ... for each part, in pixels


class FoundCrystal(NamedTuple):
    """A crystal, in pixels of the original picture.

    Attributes:
        kind: name of its class.
        score: in [0, 1].
        box: x1, y1, x2, y2, the network's.
        area: of the mask.
        centre: of mass.
        length: longer side of the smallest rectangle, at any angle, that holds the mask.
        width: its shorter side.
        zoom: of the view in which it was found.
        shoot: the point farthest from its outline.
        outside: whether it lies outside every drop; None where the model knows no drops.
        outline: simplified, for the page.
    """

    kind: str
    score: float
    box: tuple[float, float, float, float]
    area: int
    centre: tuple[float, float]
    length: float
    width: float
    zoom: float
    shoot: Inmost
    outside: bool | None
    outline: Outline


class FoundDrop(NamedTuple):
    """The drop of a picture: of those found, the largest.

    Attributes:
        score: in [0, 1].
        area: of the mask, in pixels.
        centre: of mass.
        dispense: the point farthest from its rim and from all crystals; None where crystals cover it.
        outline: simplified, for the page.
    """

    score: float
    area: int
    centre: tuple[float, float]
    dispense: Inmost | None
    outline: Outline


class Result(NamedTuple):
    """What was found in one picture.

    Attributes:
        source: absolute path of the picture.
        file_name: in the tables.
        stem: of its overlay and LabelMe file.
        height: in pixels.
        width: the same.
        crystals: best first; those that reach the threshold and, for the page, others above LEAST_SCORE.
        drop: None where none was found.
        annotations: of predictions.json, without ids.
        picture: a small JPEG, in base64.
        signature: (size, modification time) of the file; empty where nobody watches it.
    """

    source: str
    file_name: str
    stem: str
    height: int
    width: int
    crystals: list[FoundCrystal]
    drop: FoundDrop | None
    annotations: list[dict[str, Any]]
    picture: str
    signature: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Tuples become lists."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """Raises ValueError, TypeError or KeyError where the text is not what `to_json` wrote."""
        result = cls(*json.loads(text))
        crystals = [FoundCrystal(*c) for c in result.crystals]
        crystals = [c._replace(shoot=Inmost(*c.shoot)) for c in crystals]
        drop = FoundDrop(*result.drop) if result.drop else None
        if drop and drop.dispense:
            drop = drop._replace(dispense=Inmost(*drop.dispense))
        return result._replace(crystals=crystals, drop=drop, signature=tuple(result.signature))


def counted(crystals: Sequence[FoundCrystal], score_threshold: float, outside: bool) -> list[FoundCrystal]:
    """The crystals that reach the threshold, without those outside the drop unless `outside` asks for them."""
    return [c for c in crystals if c.score >= score_threshold and (outside or not c.outside)]


def outline_of(mask: Mask, tolerance: float) -> Outline:
    """The outer border of each part in few points, which lie at most `tolerance` pixels beside it.

    >>> mask = np.zeros((20, 30), bool)
    >>> mask[5:9, 10:20] = True
    >>> outline_of(mask, 0.7)
    [[10, 5, 10, 8, 19, 8, 19, 5]]
    """
    lines = contours(mask)
    return [[int(v) for v in cv2.approxPolyDP(line[:, None], tolerance, True).ravel()] for line in lines]


def small_picture(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """The image as a JPEG of at most PICTURE_WIDTH pixels, in base64."""
    height, width = image.shape[:2]
    if width > PICTURE_WIDTH:
        size = PICTURE_WIDTH, max(1, round(height * PICTURE_WIDTH / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def annotations_of(
    prediction: Prediction, classes: Sequence[tuple[int, str]], *, score_threshold: float, outside: bool
) -> list[dict[str, Any]]:
    """The detections as COCO's annotations, without `id` and `image_id`; `outside`: also crystals outside the drop."""
    drops, crystals = drops_and_crystals(prediction, classes, score_threshold)
    rles = prediction.rles
    outsiders = outside_drops([rles[i] for i in crystals], [rles[i] for i in drops])
    left_out = set() if outside else {i for i, is_outside in zip(crystals, outsiders, strict=True) if is_outside}
    annotations = []
    for i, rle in enumerate(rles):
        if i in left_out:
            continue
        x1, y1, x2, y2 = (round(float(v), 3) for v in prediction.boxes[i])
        annotation = coco_annotation(rle, classes[prediction.classes[i]][0])
        annotation["bbox"] = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]  # the network's, not that of the pixels
        annotations.append(
            annotation | {"score": round(float(prediction.scores[i]), 6), "zoom": float(prediction.zooms[i])}
        )
    return annotations


def drops_and_crystals(
    prediction: Prediction, classes: Sequence[tuple[int, str]], score_threshold: float
) -> tuple[list[int], list[int]]:
    """Indices of the drops that reach the threshold, and of all crystals; both best first."""
    names = [classes[c][1] for c in prediction.classes]
    drops = [i for i, name in enumerate(names) if is_drop(name) and prediction.scores[i] >= score_threshold]
    return drops, [i for i, name in enumerate(names) if not is_drop(name)]


def _crystal(
    prediction: Prediction, i: int, classes: Sequence[tuple[int, str]], outside: bool | None, tolerance: float
) -> FoundCrystal:
    patch, top, left = cut(prediction.rles[i])  # once: it decodes
    area, x, y, length, width = measure(patch)
    shoot = shooting_point(patch)
    assert shoot, "a detection covers at least one pixel"
    x1, y1, x2, y2 = (float(v) for v in prediction.boxes[i])
    return FoundCrystal(
        kind=classes[prediction.classes[i]][1],
        score=float(prediction.scores[i]),
        box=(x1, y1, x2, y2),
        area=area,
        centre=(x + left, y + top),
        length=length,
        width=width,
        zoom=float(prediction.zooms[i]),
        shoot=Inmost(shoot.x + left, shoot.y + top, shoot.radius),
        outside=outside,
        outline=[[v + (left, top)[k % 2] for k, v in enumerate(part)] for part in outline_of(patch, tolerance)],
    )


def measured(
    prediction: Prediction,
    classes: Sequence[tuple[int, str]],
    *,
    width: int,
    score_threshold: float,
    outside: bool,
) -> tuple[list[FoundCrystal], FoundDrop | None]:
    """Measure what was found in one picture.

    Args:
        prediction: of the picture, best first.
        classes: (id, name) of each class, background first; one named "drop" is the drop, all others are crystals.
        width: of the picture, in pixels.
        score_threshold: from which a crystal counts, and a drop is there.
        outside: whether crystals outside the drop keep off the dispensing point.

    Returns:
        The crystals that reach the threshold or LEAST_SCORE, and the drop.
    """
    drops, crystals = drops_and_crystals(prediction, classes, score_threshold)
    shown = [i for i in crystals if prediction.scores[i] >= score_threshold]
    others = [i for i in crystals if LEAST_SCORE <= prediction.scores[i] < score_threshold]
    chosen = shown + others[:MOST_BELOW]
    rles, tolerance = prediction.rles, max(0.7, width / PICTURE_WIDTH / 2)
    outsiders = outside_drops([rles[i] for i in chosen], [rles[i] for i in drops])
    knows_drops = any(is_drop(name) for _, name in classes)
    found = [
        _crystal(prediction, i, classes, bool(is_outside) if knows_drops else None, tolerance)
        for i, is_outside in zip(chosen, outsiders, strict=True)
    ]
    if not drops:
        return found, None
    sizes = [measure(rles[i]) for i in drops]
    largest = int(np.argmax([size[0] for size in sizes]))
    mask, (area, x, y, *_) = rles[drops[largest]], sizes[largest]
    counts = [c.score >= score_threshold and (outside or not c.outside) for c in found]
    obstacles = [rles[i] for i, counts_here in zip(chosen, counts, strict=True) if counts_here]
    score = float(prediction.scores[drops[largest]])
    return found, FoundDrop(score, area, (x, y), dispensing_point(mask, obstacles), outline_of(mask, tolerance))
