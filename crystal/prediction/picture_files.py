"""The files of one picture: its overlay, and its LabelMe JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from crystal.data.labelme.export import labelme_document, labelme_shapes
from crystal.prediction.overlays import draw_outlines
from crystal.prediction.predictor import Prediction
from crystal.prediction.results import FoundCrystal, counted, drops_and_crystals

# Colour at full resolution, so that thin lines keep theirs.
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
RIM = (255, 255, 255)  # colour of a drop's outline


class Shown(NamedTuple):
    """What of a prediction is drawn.

    Attributes:
        crystals: indices of those that count.
        numbers: of each, its number in crystals.csv.
        drops: indices.
    """

    crystals: list[int]
    numbers: list[str]
    drops: list[int]


def shown(
    prediction: Prediction,
    crystals: Sequence[FoundCrystal],
    classes: Sequence[tuple[int, str]],
    *,
    score_threshold: float,
    outside: bool,
) -> Shown:
    """The crystals of a prediction that count, and its drops; `crystals` are what `measured` gave for it."""
    drops, order = drops_and_crystals(prediction, classes, score_threshold)
    numbered = enumerate(zip(order, crystals, strict=False), 1)
    kept = [(i, n) for n, (i, crystal) in numbered if counted([crystal], score_threshold, outside)]
    return Shown([i for i, _ in kept], [str(n) for _, n in kept], drops)


def overlay(image: UInt8[np.ndarray, "h w 3"], prediction: Prediction, what: Shown) -> bytes:
    """The image with its outlines, as a JPEG."""
    # The drops first: labels of crystals keep off instances, and all would lie in the drop.
    rims = draw_outlines(image, [prediction.rles[i] for i in what.drops], colours=[RIM])
    rles, scores = [prediction.rles[i] for i in what.crystals], prediction.scores[what.crystals]
    drawn = draw_outlines(rims, rles, labels=what.numbers, scores=scores)
    return cv2.imencode(".jpg", drawn[..., ::-1], JPEG)[1].tobytes()


def labelme_text(
    path: Path, place: Path, size: tuple[int, int], prediction: Prediction, names: Sequence[str], what: Shown
) -> str:
    """A LabelMe file of the outlines.

    Args:
        path: of the image.
        place: where the file will lie.
        size: (height, width) of the image.
        prediction: of the image.
        names: of the class of each of its instances.
        what: of it is to be written.
    """
    chosen = what.crystals + what.drops
    shapes = labelme_shapes(
        [prediction.rles[i] for i in chosen],
        [names[i] for i in chosen],
        [float(prediction.scores[i]) for i in chosen],
    )
    return json.dumps(labelme_document(shapes, image=path, place=place, height=size[0], width=size[1]), indent=1)
