"""How good predictions are: the paper's precision, recall and mAP over mask IoU, and COCO's twelve numbers.

The paper (section 2.5) defines IoU (5) as intersection over union of two masks, precision (3) as TP / (TP + FP) and
recall (4) as TP / (TP + FN). Its mAP is that of the code it was built on (Matterport's `compute_ap`): the mean over
IMAGES of each image's average precision at one IoU threshold. COCO's AP is another number, not to be compared: it ranks
all images' predictions together, averages over classes and thresholds 0.50 to 0.95, and samples the curve 101 times.

One image's average precision: predictions, best score first, each take the unmatched ground truth of their class that
overlaps them most, if its IoU reaches the threshold. After n predictions, of which t matched one of g, precision is
t / n and recall t / g. Precision is made monotone from the right, and AP is the sum of precision x step of recall.

Masks are bool [n, h, w] or a list of n COCO RLE dicts; comparisons use RLE, so that 100 images need little memory.

Crowd regions (`crowd` of a truth, an extension of the paper's rule, as in COCO) are no ground truth: they can be
neither found nor missed, and a prediction without a match is left out if it lies mostly inside one of its class.
"""

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Masks = Bool[np.ndarray, "n h w"] | Sequence[Mapping[str, Any]]
Instances = Mapping[str, Any]

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class Matching(NamedTuple):
    """How one image's predictions met its ground truth. Predictions stand in order of score, best first.

    Attributes:
        order: index of each prediction as it was given; equal scores: the earlier one first.
        truth: index of the ground truth that each prediction took, or -1.
        left_out: the prediction has no match and lies mostly in a crowd region.
        is_truth: which of the truth's rows are ground truth, that is, no crowd.
    """

    order: Int64[np.ndarray, " p"]
    truth: Int64[np.ndarray, " p"]
    left_out: Bool[np.ndarray, " p"]
    is_truth: Bool[np.ndarray, " g"]


class PrecisionRecall(NamedTuple):
    """The paper's (3) and (4), both in [0, 1] or nan."""

    precision: float
    recall: float


class EmptyImages(NamedTuple):
    """What the paper's mAP leaves out: the number of images without ground truth, and what was predicted in them."""

    images: int
    false_positives: int


def _rle(masks: Masks) -> list[Any]:
    """COCO RLE, one dict an instance, from either form of masks."""
    if not isinstance(masks, np.ndarray):
        return list(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks must be [n, h, w], got shape {list(masks.shape)}")
    return [rle_tools.encode(np.asfortranarray(mask != 0, np.uint8)) for mask in masks]


def _overlap(a: list[Any], b: list[Any], *, b_crowd: bool) -> Float64[np.ndarray, "n m"]:
    """Intersection over union, or over the area of `a` where `b` are crowds."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    sizes = {tuple(rle["size"]) for rle in (*a, *b)}
    if len(sizes) > 1:
        raise ValueError(f"masks of one image differ in size (height, width): {sorted(sizes)}")
    return np.asarray(rle_tools.iou(a, b, [int(b_crowd)] * len(b)), np.float64).reshape(len(a), len(b))


def mask_iou(a: Masks, b: Masks) -> Float64[np.ndarray, "n m"]:
    """Intersection over union of every mask in `a` with every mask in `b` (the paper's equation 5).

    Args:
        a: masks of one image, bool [n, h, w] or COCO RLE.
        b: masks of the same image.

    Returns:
        IoU in [0, 1]; 0 where both masks are empty.

    Raises:
        ValueError: masks of different height or width.

    >>> mask_iou(np.array([[[1, 1, 0]]], bool), np.array([[[0, 1, 1]], [[1, 1, 0]]], bool)).round(3).tolist()
    [[0.333, 1.0]]
    """
    return _overlap(_rle(a), _rle(b), b_crowd=False)


def match(truth: Instances, prediction: Instances, *, iou: float) -> Matching:
    """Match one image's predictions greedily to its ground truth; arguments as for `average_precision`.

    One crystal predicted twice: the prediction with the higher score takes it, the other matches nothing.

    >>> pixels = np.ones((1, 2, 2), bool)
    >>> found = {"masks": np.repeat(pixels, 2, axis=0), "classes": [1, 1], "scores": [0.6, 0.9]}
    >>> matching = match({"masks": pixels, "classes": [1]}, found, iou=0.5)
    >>> matching.order.tolist(), matching.truth.tolist()
    ([1, 0], [0, -1])
    """
    true_masks, true_classes = _rle(truth["masks"]), np.asarray(truth["classes"])
    masks, classes = _rle(prediction["masks"]), np.asarray(prediction["classes"])
    scores = np.asarray(prediction["scores"])
    crowd = np.asarray(truth.get("crowd", np.zeros(len(true_masks))), bool)
    if not len(true_masks) == len(true_classes) == len(crowd):
        raise ValueError(f"truth: {len(true_masks)} masks, {len(true_classes)} classes, {len(crowd)} crowd flags")
    if not len(masks) == len(classes) == len(scores):
        raise ValueError(f"prediction: {len(masks)} masks, {len(classes)} classes, {len(scores)} scores")

    order = np.argsort(-scores, kind="stable")
    masks, classes = [masks[i] for i in order], classes[order]
    same_class = classes[:, None] == true_classes[None]
    overlaps = np.where(same_class & ~crowd, _overlap(masks, true_masks, b_crowd=False), -1.0)
    taken = np.full(len(masks), -1)
    for row, overlap in enumerate(overlaps):
        if overlap.size and overlap.max() >= iou:
            taken[row] = overlap.argmax()
            overlaps[:, taken[row]] = -1.0

    inside = _overlap(masks, [m for m, is_crowd in zip(true_masks, crowd, strict=True) if is_crowd], b_crowd=True)
    in_crowd = np.any(same_class[:, crowd] & (inside >= iou), axis=1)
    return Matching(order, taken, in_crowd & (taken < 0), ~crowd)


def average_precision(truth: Instances, prediction: Instances, *, iou: float) -> float:
    """Average precision of one image: the area under its monotone precision-recall curve.

    Args:
        truth: dict of `masks`, `classes` [g] and, if there are any, `crowd` bool [g].
        prediction: dict of `masks`, `classes` [p], `scores` [p].
        iou: lowest mask IoU of a match, in (0, 1].

    Returns:
        AP in [0, 1]; nan for an image without ground truth.

    Two crystals; the predictions are right, wrong, right. Precision 1/1, 1/2, 2/3 at recall 1/2, 1/2, 1; made monotone,
    the steps of recall are worth 1/2 * 1 + 1/2 * 2/3.

    >>> def pixels(*columns): return np.isin(np.arange(6), columns)[None]
    >>> truth = {"masks": np.stack([pixels(0, 1), pixels(4, 5)]), "classes": [1, 1]}
    >>> found = {"masks": np.stack([pixels(0, 1), pixels(2, 3), pixels(4, 5)]), "classes": [1, 1, 1]}
    >>> round(average_precision(truth, found | {"scores": [0.9, 0.8, 0.7]}, iou=0.5), 4)
    0.8333
    """
    matching = match(truth, prediction, iou=iou)
    if not matching.is_truth.any():
        return math.nan
    hit = matching.truth[~matching.left_out] >= 0
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by 1 / g at each hit and nowhere else.
    return float(precision[hit].sum() / matching.is_truth.sum())


def _pairs(truths: Sequence[Instances], predictions: Sequence[Instances]) -> Iterator[tuple[Instances, Instances]]:
    if len(truths) != len(predictions):
        raise ValueError(f"{len(truths)} images of truth, {len(predictions)} of predictions")
    return zip(truths, predictions, strict=True)


def paper_map(truths: Sequence[Instances], predictions: Sequence[Instances], *, iou: float) -> float:
    """The paper's mAP: the mean of `average_precision` over the images that have ground truth.

    Args:
        truths: a dict an image, see `average_precision`.
        predictions: a dict an image, in the same order.
        iou: lowest mask IoU of a match; the paper reports 0.50 and 0.65.

    Returns:
        mAP in [0, 1]; nan if no image has ground truth. `empty_image_report` counts the images left out.

    Three images: the crystal found, the crystal missed, and one without crystals, which does not count.

    >>> crystal, nothing = np.ones((1, 2, 2), bool), np.zeros((0, 2, 2), bool)
    >>> truths = [{"masks": masks, "classes": [1] * len(masks)} for masks in (crystal, crystal, nothing)]
    >>> found = [{"masks": masks, "classes": [1] * len(masks), "scores": [0.9] * len(masks)}
    ...     for masks in (crystal, nothing, crystal)]
    >>> paper_map(truths, found, iou=0.5)
    0.5
    """
    values = [average_precision(truth, prediction, iou=iou) for truth, prediction in _pairs(truths, predictions)]
    counted = [value for value in values if not math.isnan(value)]
    return float(np.mean(counted)) if counted else math.nan


def precision_recall(truths: Sequence[Instances], predictions: Sequence[Instances], *, iou: float) -> PrecisionRecall:
    """The paper's precision TP / (TP + FP) (3) and recall TP / (TP + FN) (4), pooled over all images.

    Every prediction counts, so drop those below the working score first. Images without ground truth count here: what
    is predicted in them is false.

    Arguments as for `paper_map`. Precision is nan without predictions, recall is nan without ground truth.

    One crystal found, one missed, and two predicted where nothing is:

    >>> crystal, nothing = np.ones((1, 2, 2), bool), np.zeros((0, 2, 2), bool)
    >>> truths = [{"masks": masks, "classes": [1] * len(masks)} for masks in (crystal, crystal, nothing)]
    >>> found = [{"masks": masks, "classes": [1] * len(masks), "scores": [0.9] * len(masks)}
    ...     for masks in (crystal, nothing, np.repeat(crystal, 2, axis=0))]
    >>> [round(number, 3) for number in precision_recall(truths, found, iou=0.5)]
    [0.333, 0.5]
    """
    matchings = [match(truth, prediction, iou=iou) for truth, prediction in _pairs(truths, predictions)]
    hits = sum(int((m.truth >= 0).sum()) for m in matchings)
    counted = sum(int((~m.left_out).sum()) for m in matchings)
    true = sum(int(m.is_truth.sum()) for m in matchings)
    return PrecisionRecall(hits / counted if counted else math.nan, hits / true if true else math.nan)


def empty_image_report(truths: Sequence[Instances], predictions: Sequence[Instances], *, iou: float) -> EmptyImages:
    """Count the images without ground truth, which `paper_map` leaves out, and the predictions in them (all false).

    >>> nothing = {"masks": np.zeros((0, 2, 2), bool), "classes": []}
    >>> found = {"masks": np.ones((2, 2, 2), bool), "classes": [1, 1], "scores": [0.9, 0.8]}
    >>> empty_image_report([nothing], [found], iou=0.5)
    EmptyImages(images=1, false_positives=2)
    """
    matchings = [match(truth, prediction, iou=iou) for truth, prediction in _pairs(truths, predictions)]
    empty = [m for m in matchings if not m.is_truth.any()]
    return EmptyImages(len(empty), sum(int((~m.left_out).sum()) for m in empty))


def _coco(dataset: Any) -> COCO:
    """A `COCO` object of a dict, which pycocotools changes: pass a copy."""
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def coco_metrics(
    coco_truth: Mapping[str, Any], coco_results: Sequence[Mapping[str, Any]], *, kind: Literal["segm", "bbox"] = "segm"
) -> dict[str, float]:
    """COCO's twelve numbers by pycocotools, without its printing.

    As pycocotools does: -1 where there is no ground truth to find (of that size), 0 where there is and nothing was
    found, which holds for an empty list of results too. Results that carry a `bbox` beside their `segmentation` are
    sorted into sizes by the box's area even for masks; leave the `bbox` out to have them sorted by the mask's.

    Args:
        coco_truth: a COCO dataset: `images`, `categories`, `annotations` with `id` (from 1), `area` and `iscrowd`.
        coco_results: COCO results: `image_id`, `category_id`, `score`, and `segmentation` (RLE or polygons) or `bbox`.
        kind: IoU of masks or of boxes.

    Returns:
        AP (mean over IoU 0.50:0.95), AP50, AP75; APs, APm, APl of small (below 32^2 px), medium and large (above 96^2)
        objects; AR1, AR10, AR100 (recall with so many predictions an image); ARs, ARm, ARl.

    Raises:
        ValueError: a result for an image that the truth does not have.

    One crystal of 10x10 pixels, and a box that shares 80 of them: an IoU of 0.8, under the last three of COCO's ten
    thresholds.

    >>> truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "crystal"}], "annotations": [
    ...     {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}]}
    >>> result = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 8], "score": 0.9}
    >>> metrics = coco_metrics(truth, [result], kind="bbox")
    >>> [round(metrics[name], 3) for name in ("AP", "AP50", "AP75", "APl")]
    [0.7, 1.0, 1.0, -1.0]
    """
    truth: dict[str, Any] = copy.deepcopy({"info": {}, **coco_truth})
    results: Any = copy.deepcopy([dict(result) for result in coco_results])  # any: the stubs of loadRes know paths only
    strangers = {result["image_id"] for result in results} - {image["id"] for image in truth["images"]}
    if strangers:
        raise ValueError(f"results for images that the truth does not have, image_id {sorted(strangers)[:5]}")
    if any(annotation["id"] == 0 for annotation in truth["annotations"]):
        warnings.warn("pycocotools never counts annotation id 0 as found; number annotations from 1", stacklevel=2)
    with contextlib.redirect_stdout(io.StringIO()):
        known = _coco(truth)
        # loadRes reads the first result to tell boxes from masks, so it fails without one.
        found = known.loadRes(results) if results else _coco({**truth, "annotations": []})
        evaluation = COCOeval(known, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_METRICS, map(float, evaluation.stats), strict=True))
