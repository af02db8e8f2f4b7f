"""How a prediction went against its ground truth, one image at a time: counted, and drawn in colours with a meaning.

In every picture an outline is found, false or missed; regions to be ignored are grey.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as rle_tools

from crystal.evaluation.metrics import average_precision, match
from crystal.prediction.overlays import GREEN, GREY, SKY, VERMILLION, YELLOW, draw_outlines

Image = UInt8[np.ndarray, "h w 3"]

TRUTH, IGNORED, FOUND, FALSE, MISSED = GREEN, GREY, SKY, VERMILLION, YELLOW
MATCH_IOU = 0.5


class ImageResult(NamedTuple):
    """One evaluated image: its file and the two dicts that `crystal.evaluation.metrics` compares.

    Attributes:
        path: the image file.
        truth: `masks`, `classes` and, if there are any, `crowd`.
        prediction: `masks`, `classes`, `scores`.
    """

    path: Path
    truth: Mapping[str, Any]
    prediction: Mapping[str, Any]


class Verdict(NamedTuple):
    """What became of one image's crystals, at mask IoU 0.50.

    Attributes:
        ap: average precision over predictions of all scores, as it enters the mAP; nan without ground truth.
        found: crystals that a prediction over the score threshold matches.
        missed: the other crystals, as indices into the truth's masks.
        false: predictions over the score threshold that match nothing.
        missed_area: median area of the missed ones in pixels; nan if there is none.
        found_area: median area of the found ones.
        picture: the image with all outlines, uint8 RGB.
    """

    ap: float
    found: int
    missed: list[int]
    false: int
    missed_area: float
    found_area: float
    picture: Image

    def __str__(self) -> str:
        count = self.found + len(self.missed)
        text = f"{self.found} of {count} crystals found, {self.false} false"
        return text if np.isnan(self.ap) else f"{text}; AP\N{NO-BREAK SPACE}{self.ap:.2f}"

    def explain(self) -> str:
        """What went wrong, in numbers."""
        sentences = [f"{self}."]
        if self.missed and self.found:
            sentences.append(f"The missed ones cover {self.missed_area:,.0f} pixels in the median, the found ones")
            sentences[-1] += f" {self.found_area:,.0f}."
        elif self.missed:
            sentences.append(f"The missed ones cover {self.missed_area:,.0f} pixels in the median.")
        return " ".join(sentences)


def _median_area(masks: Any, chosen: list[int]) -> float:
    areas = [masks[i].sum() if isinstance(masks[i], np.ndarray) else rle_tools.area(masks[i]) for i in chosen]
    return float(np.median(areas)) if areas else np.nan


def draw_truth(image: Image, truth: Mapping[str, Any], *, scale: float = 1.0) -> Image:
    """The ground truth's outlines in one colour, regions to be ignored in grey. See `draw_outlines` for `scale`."""
    crowd = truth.get("crowd", [False] * len(truth["masks"]))
    colours = [IGNORED if is_crowd else TRUTH for is_crowd in crowd]
    return draw_outlines(image, truth["masks"], colours=colours, scale=scale)


def judge(image: Image, result: ImageResult, *, score_threshold: float = 0.5, scale: float = 1.0) -> Verdict:
    """Match one image's predictions to its ground truth, count, and draw.

    Args:
        image: the image of `result.path`, uint8 RGB.
        result: truth and prediction.
        score_threshold: predictions below it count in the AP only.
        scale: size of the picture against the image.
    """
    truth, prediction = result.truth, result.prediction
    shown = np.flatnonzero(np.asarray(prediction["scores"]) >= score_threshold)
    masks, kept = prediction["masks"], {k: np.asarray(prediction[k])[shown] for k in ("classes", "scores")}
    own = masks[shown] if isinstance(masks, np.ndarray) else [masks[i] for i in shown]
    matching = match(truth, {**kept, "masks": own}, iou=MATCH_IOU)
    hit = {int(i) for i in matching.order[matching.truth >= 0]}
    false = {int(i) for i in matching.order[(matching.truth < 0) & ~matching.left_out]}
    found = [int(i) for i in matching.truth if i >= 0]
    missed = [int(i) for i in np.flatnonzero(matching.is_truth) if i not in found]

    colours = [MISSED] * len(missed) + [
        FOUND if i in hit else FALSE if i in false else IGNORED for i in range(len(own))
    ]
    picture = draw_outlines(image, [*(truth["masks"][i] for i in missed), *own], colours=colours, scale=scale)
    ap = average_precision(truth, prediction, iou=MATCH_IOU)
    missed_area, found_area = (_median_area(truth["masks"], chosen) for chosen in (missed, found))
    return Verdict(ap, len(found), missed, len(false), missed_area, found_area, picture)
