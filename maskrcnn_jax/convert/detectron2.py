"""Detectron2's mask_rcnn_R_101_FPN_3x (and R_50): names and conversion rules.

Detectron2 reads BGR images, so the stem's input channels are reversed. Its background is the last class, here the
first; its box and mask outputs have no background, whose rows here are zeros and never used.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial

import numpy as np

from maskrcnn_jax.config import RESNET_DEPTHS, MaskRCNNConfig
from maskrcnn_jax.convert.pickles import Entry
from maskrcnn_jax.convert.pytorch import body, conv, linear, norm, resnet_depth, transposed_conv
from maskrcnn_jax.convert.table import ConversionError, Rule, Shape, classes_of

EPSILON = 1e-5
IGNORED = {
    r"pixel_(mean|std)": "part of the config; see `_require_bgr`",
    r"proposal_generator\.anchor_generator\.cell_anchors.*": "computed from the config",
    r".*\.num_batches_tracked": "a training counter without effect on outputs",
}
CLASS_WEIGHTS = "roi_heads.box_predictor.cls_score.weight"  # a row a class, the last for the background


def is_detectron2(names: Mapping[str, Entry]) -> bool:
    """Whether the names are those of Detectron2's FPN models."""
    return any(name.startswith("backbone.bottom_up.") for name in names)


def _require_bgr(names: Mapping[str, Entry]) -> None:
    """Refuse what says that it was trained on RGB images, or on ones divided by a standard deviation."""
    mean, std = (np.ravel(names[name].read()) if name in names else None for name in ("pixel_mean", "pixel_std"))
    if (mean is not None and mean[0] > mean[-1]) or (std is not None and not np.allclose(std, 1)):
        raise ConversionError(
            f"its pixel_mean {mean} and pixel_std {std} are not those of Detectron2's BGR images, which are divided by "
            "1; such a training is not read"
        )


def config(names: Mapping[str, Entry]) -> MaskRCNNConfig:
    """`detectron2_coco` with the depth found in the names, and the file's number of classes."""
    _require_bgr(names)
    preset = MaskRCNNConfig.detectron2_coco()
    preset = dataclasses.replace(preset, classes=classes_of(names.get(CLASS_WEIGHTS), preset.classes, axis=0))
    depths = RESNET_DEPTHS[resnet_depth(names, "backbone.bottom_up.res4.")]
    return dataclasses.replace(preset, backbone=dataclasses.replace(preset.backbone, depths=depths))


def background_first(rows: np.ndarray) -> np.ndarray:
    """[..classes, background] -> [background, classes..].

    >>> background_first(np.array([1, 2, 0])).tolist()
    [0, 1, 2]
    """
    return np.concatenate([rows[-1:], rows[:-1]])


def with_background(rows: np.ndarray, *, classes: int) -> np.ndarray:
    """Prepend rows of zeros for the background, as many as each of the other classes has.

    >>> with_background(np.ones(4), classes=2).tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    """
    return np.concatenate([np.zeros_like(rows[: len(rows) // classes]), rows])


def rules(wanted: Mapping[str, Shape], depths: tuple[int, ...], *, epsilon: float) -> list[Rule]:
    """All conversion rules. `wanted`: shapes of our parameters."""
    rpn, heads = "proposal_generator.rpn_head", "roi_heads"
    classes = wanted["box_head.classes.bias"][0] - 1
    padded = partial(with_background, classes=classes)
    names = {"norm_name": "conv{i}.norm", "shortcut": ("shortcut", "shortcut.norm")}
    table = [
        *conv(wanted, "backbone.stem", "backbone.bottom_up.stem.conv1", reverse_inputs=True),
        *norm(wanted, "backbone.stem_norm", "backbone.bottom_up.stem.conv1.norm", epsilon),
        *body(wanted, depths, "backbone.bottom_up.res{c}.{block}", **names, epsilon=epsilon),
    ]
    for level in range(4):
        table += conv(wanted, f"fpn.laterals.{level}", f"backbone.fpn_lateral{level + 2}")
        table += conv(wanted, f"fpn.outputs.{level}", f"backbone.fpn_output{level + 2}")
    for i in range(4):
        table += conv(wanted, f"mask_head.convs.{i}", f"{heads}.mask_head.mask_fcn{i + 1}")
    return [
        *table,
        *conv(wanted, "rpn.shared", f"{rpn}.conv"),
        *conv(wanted, "rpn.objectness", f"{rpn}.objectness_logits"),
        *conv(wanted, "rpn.deltas", f"{rpn}.anchor_deltas"),
        *linear(wanted, "box_head.first", f"{heads}.box_head.fc1", bins=7),
        *linear(wanted, "box_head.second", f"{heads}.box_head.fc2"),
        *linear(wanted, "box_head.classes", f"{heads}.box_predictor.cls_score", reorder=background_first),
        *linear(
            wanted,
            "box_head.deltas",
            f"{heads}.box_predictor.bbox_pred",
            outputs=4 * classes,
            reorder=padded,
        ),
        *transposed_conv(wanted, "mask_head.double", f"{heads}.mask_head.deconv"),
        *conv(wanted, "mask_head.masks", f"{heads}.mask_head.predictor", outputs=classes, reorder=padded),
    ]
