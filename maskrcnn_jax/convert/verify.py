"""Compare a converted model, stage by stage, with recorded outputs of the original program for one image.

The golden is an `.npz` in our conventions (letterboxed pixels, x1 y1 x2 y2, background first, one logit per anchor):

    image            [h, w, 3] letterboxed values 0-255        window           [4], the part that is not padding
    c2 .. c5, p2 .. p6, objectness, rpn_deltas: some values    X.index          their indices in the flattened X
    ranked.index, ranked.objectness, ranked.deltas             the RPN's outputs of all anchors that enter NMS
    proposals        [p, 4]                                    class_logits.rows, class_logits, box_deltas.rows, ...
    detections.boxes, detections.classes, detections.scores    masks.rows, masks: probabilities of those detections
    detections.roi   index of each one's proposal              score_threshold  of the detections, if not the config's

Only `image` is required; absent stages are not compared. The inputs of a stage are recorded ones where available, so
that a fault shows in its own stage. Proposals and detections are compared as sets, since scores can tie.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.config import DetectionConfig, MaskRCNNConfig
from maskrcnn_jax.convert.table import ConversionError
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import Detections, Pyramid

MAPS = ("c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6")
TOLERANCE = 1e-4  # of features, logits and deltas, relative to the golden's largest value
MASK_TOLERANCE = 1e-3  # of probabilities
PIXELS = 2e-3  # between proposals from the same outputs of the RPN
SET_IOU, SET_SCORE = 0.99, 1e-3  # of a proposal or detection that equals the recorded one
MAX_SHARE = 0.01  # of rows that differ: samples at a map's border, boxes that tie
EXTRA_SLOTS = 10  # for detections, besides the config's
UNRANKED = -1e4  # logit of anchors that are not in the golden, which never become proposals


class Comparison(NamedTuple):
    """The error of one stage and its upper limit, `bar`."""

    stage: str
    measure: str
    error: float
    bar: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; False for NaN."""
        return bool(self.error <= self.bar)


def read_golden(path: str | Path) -> dict[str, np.ndarray]:
    """A recorded run of the original program.

    Args:
        path: an `.npz`, see the module docstring.

    Returns:
        Its arrays by name.

    Raises:
        ConversionError: it is not an `.npz`, or it has no image.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            golden = dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConversionError(f"{path}: not a golden .npz ({error}); see maskrcnn_jax/convert/verify.py") from error
    if golden.get("image", np.zeros(0)).ndim != 3:
        raise ConversionError(f"{path}: not a golden: it has no image [h, w, 3]")
    return golden


def compare(model: MaskRCNN, golden: Mapping[str, np.ndarray]) -> list[Comparison]:
    """Run the model on a recorded image, and compare every stage.

    Args:
        model: the converted model.
        golden: of `read_golden`.

    Returns:
        The error of each stage that was recorded, and its limit.
    """
    model = nnx.clone(model)
    model.config = dataclasses.replace(model.config, detection=_detection(model.config.detection, golden))
    graph, state = nnx.split(model)
    images = jnp.asarray(golden["image"])[None]
    size = (images.shape[1], images.shape[2])
    windows = jnp.asarray(golden.get("window", (0, 0, size[1], size[0])), jnp.float32)[None]

    def run(method: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
        # By default some devices round float32 factors of products to ten bits, which alone exceeds the tolerances.
        with jax.default_matmul_precision("highest"):
            return _run(method, tuple(options.items()), graph, state, *arrays)

    maps = tuple(name for name in MAPS if name in golden)
    wanted = {*maps, *(name for name in ("objectness", "rpn_deltas", "proposals") if name in golden)}
    wanted |= {"detections"} if "detections.boxes" in golden else set()
    wanted |= set(Pyramid._fields) if {"class_logits", "masks"} & set(golden) else set()
    ours = run(_stages, images, windows, wanted=frozenset(wanted))
    rows = [_values(name, ours[name], golden) for name in (*maps, "objectness", "rpn_deltas") if name in golden]

    if "ranked.index" in golden:
        index = golden["ranked.index"]
        anchors = len(model.anchors(*size))
        objectness = jnp.full((1, anchors), UNRANKED).at[0, index].set(golden["ranked.objectness"])
        deltas = jnp.zeros((1, anchors, 4)).at[0, index].set(golden["ranked.deltas"])
        found = run(MaskRCNN.propose, objectness, deltas, windows, size=size)
        distance = _hausdorff_distance(golden["proposals"], np.asarray(found.boxes[0])[np.asarray(found.valid[0])])
        rows.append(
            Comparison("proposals from the recorded outputs of the RPN", "largest distance, px", distance, PIXELS)
        )
    if "proposals" in golden:
        boxes = np.asarray(ours["proposals"].boxes[0])[np.asarray(ours["proposals"].valid[0])]
        equal = _equal_boxes(golden["proposals"], boxes)
        rows.append(
            Comparison("proposals, end to end", f"share without a match at IoU {SET_IOU}", _unmatched(equal), MAX_SHARE)
        )

    pyramid = Pyramid(*(ours.get(name) for name in Pyramid._fields))
    if "class_logits" in golden:
        recorded = jnp.asarray(golden["proposals"])[None]
        logits, deltas = run(MaskRCNN.classify, pyramid, recorded)
        rows += [_per_row("class_logits", logits[0], golden), _per_row("box_deltas", deltas[0], golden)]
    if "detections.boxes" in golden:
        rows.append(_detections(ours["detections"], golden, model.config))
    if "masks" in golden:
        chosen = golden["masks.rows"]
        boxes = jnp.asarray(golden["detections.boxes"])[chosen][None]
        logits = run(MaskRCNN.outline, pyramid, boxes)
        own = np.asarray(logits)[0][np.arange(len(chosen)), :, :, golden["detections.classes"][chosen]]
        error = np.abs(1 / (1 + np.exp(-own)) - golden["masks"]).max()
        rows.append(Comparison("mask probabilities", "largest error", float(error), MASK_TOLERANCE))
    return rows


# At module level, so that goldens of equal config and image size share a compiled program.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    method: Callable[..., Any],
    options: tuple[tuple[str, Any], ...],
    graph: nnx.GraphDef,
    state: nnx.State,
    *arrays: Any,
) -> Any:
    return method(nnx.merge(graph, state), *arrays, **dict(options))


def _stages(model: MaskRCNN, images: jax.Array, windows: jax.Array, wanted: frozenset[str]) -> dict[str, Any]:
    # What is not returned is not computed: stages that were not recorded, and the masks of our own detections.
    stages = model.stages(images, windows)
    stages = stages._replace(detections=stages.detections._replace(masks=None))
    return {name: value for name, value in stages._asdict().items() if name in wanted}


def _values(name: str, ours: jax.Array, golden: Mapping[str, np.ndarray]) -> Comparison:
    theirs = golden[name].ravel()
    error = np.abs(np.asarray(ours[0]).ravel()[golden[f"{name}.index"]] - theirs).max() / np.abs(theirs).max()
    return Comparison(name, "largest error / largest value", float(error), TOLERANCE)


def _per_row(name: str, ours: jax.Array, golden: Mapping[str, np.ndarray]) -> Comparison:
    theirs = golden[name]
    errors = np.abs(np.asarray(ours)[golden[f"{name}.rows"]] - theirs).reshape(len(theirs), -1).max(1)
    share = (errors / np.abs(theirs).max() > TOLERANCE).mean()
    return Comparison(name, f"share of rows over {TOLERANCE:g} of the largest value", float(share), MAX_SHARE)


def _equal_boxes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(iou(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))) >= SET_IOU


def _unmatched(equal: np.ndarray, first: int | None = None) -> float:
    """Share of rows, or of the `first` columns, whichever is larger, without a match."""
    if not equal.size:
        return float(len(equal) > 0)
    return float(max(1 - equal.any(1).mean(), 1 - equal[:, :first].any(0).mean()))


def _hausdorff_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Hausdorff distance of two sets of boxes, by the largest difference of coordinates."""
    distance = np.abs(a[:, None] - b[None]).max(-1)
    return float(max(distance.min(1).max(), distance.min(0).max()))


def _detection(config: DetectionConfig, golden: Mapping[str, np.ndarray]) -> DetectionConfig:
    """The recorded threshold and extra slots, so that an additional detection does not displace the last one."""
    threshold = float(golden.get("score_threshold", config.score_threshold))
    return dataclasses.replace(config, score_threshold=threshold, max_detections=config.max_detections + EXTRA_SLOTS)


def _detections(ours: Detections, golden: Mapping[str, np.ndarray], config: MaskRCNNConfig) -> Comparison:
    """Recorded detections without a match in ours, and, among as many of ours, those without a recorded match.

    With `crop_and_resize` the last samples of a RoI at the far border of the image lie on the centres of the last
    cells, or, by rounding, just outside, where they read 0. Recorded detections from such RoIs are left out, and ours
    without a recorded match are not counted.
    """
    valid = np.asarray(ours.valid[0])
    boxes, classes, scores = (np.asarray(a[0])[valid] for a in ours[:3])
    equal = (
        _equal_boxes(golden["detections.boxes"], boxes)
        & (golden["detections.classes"][:, None] == classes)
        & (np.abs(golden["detections.scores"][:, None] - scores) <= SET_SCORE)
    )
    measure = f"share without a match in class, at IoU {SET_IOU}, in score within {SET_SCORE:g}"
    if config.roi.pooling.kind == "corners" and "detections.roi" in golden:
        height, width = golden["image"].shape[:2]
        rois = golden["proposals"][golden["detections.roi"]]
        inside = (rois[:, 2] < width) & (rois[:, 3] < height)
        unmatched = float(1 - equal[inside].any(1).mean())
        return Comparison(
            "detections, end to end", f"{measure}; {(~inside).sum()} at the far border left out", unmatched, MAX_SHARE
        )
    return Comparison("detections, end to end", measure, _unmatched(equal, len(equal)), MAX_SHARE)
