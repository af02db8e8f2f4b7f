"""The views of one image, whole and tiles, as `crystal predict` looks at them: what each found, and what remained."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from crystal.data.images import Image
from crystal.prediction.predictor import Joined, Prediction, Predictor
from maskrcnn_jax.image.tiles import View


class FollowedViews(NamedTuple):
    """What was found in the views of one image.

    Attributes:
        views: zoom by zoom, the whole image first.
        found: of each view, in pixels of the file.
        origin: of the detections of all views, one view after the other: the number of the view.
        prediction: what merging kept of them, best first; the others are duplicates of better ones.
        source: of each detection of `prediction`: its number among those of all views.
    """

    views: list[View]
    found: list[Prediction]
    origin: Int[np.ndarray, " n"]
    prediction: Prediction
    source: Int[np.ndarray, " k"]


def follow_views(predictor: Predictor, image: Image) -> FollowedViews:
    """Look at an image as `crystal predict` does.

    Args:
        predictor: the network, with the zooms to look at.
        image: uint8 RGB.
    """
    joined: Joined = next(iter(predictor.by_view([image])))
    counts = [len(one.scores) for one in joined.found]
    origin = np.repeat(np.arange(len(counts)), counts)
    views = predictor.views(*image.shape[:2])
    return FollowedViews(views, joined.found, origin, joined.prediction, joined.kept)
