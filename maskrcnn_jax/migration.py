"""Checkpoints of version 0.2: their flat config in today's groups, their parameters by today's names."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# Old name below `rpn` or `roi`: today's group and name. Fields that are not listed stay where they are.
RPN = {
    "delta_weights": ("coding", "weights"),
    "max_log_scale": ("coding", "max_log_scale"),
    **{
        name: (group, name)
        for group, names in (
            ("targets", "positive_iou negative_iou samples max_positive crowd_iou"),
            ("loss", "class_normaliser box_normaliser box_beta box_weight"),
            ("proposals", "per_level score before_nms after_nms nms_iou min_side clip_to"),
        )
        for name in names.split()
    },
}
ROI = {
    "pooling": ("pooling", "kind"),
    "canonical_size": ("levels", "canonical_size"),
    "level_rounding": ("levels", "rounding"),
    "level_epsilon": ("levels", "epsilon"),
    "box_size": ("box_head", "size"),
    "box_hidden": ("box_head", "hidden"),
    "mask_size": ("mask_head", "size"),
    "mask_channels": ("mask_head", "channels"),
    "mask_layers": ("mask_head", "layers"),
    "delta_weights": ("coding", "weights"),
    "max_log_scale": ("coding", "max_log_scale"),
    "binary_mask_targets": ("targets", "binary_masks"),
    **{
        name: (group, name)
        for group, names in (
            ("pooling", "sampling_ratio aligned reduce max_samples"),
            ("targets", "truth_copies truth_jitter samples max_positive positive_iou negatives_per_positive"),
            ("loss", "class_normaliser box_normaliser box_beta"),
        )
        for name in names.split()
    },
}


def grouped_config(values: dict[str, Any]) -> dict[str, Any]:
    """The dict of a config, with the flat `rpn` and `roi` of version 0.2 in groups; another is returned as it is.

    >>> grouped_config({"rpn": {"channels": 64, "nms_iou": 0.7}, "roi": {"pooling": "corners", "samples": 48}})["roi"]
    {'pooling': {'kind': 'corners'}, 'targets': {'samples': 48}}
    """
    rpn, roi = values.get("rpn", {}), dict(values.get("roi", {}))
    if not (set(rpn) & set(RPN) or isinstance(roi.get("pooling"), str)):
        return values
    # Masks were sampled with `aligned` of the RoIs, and the limit for crowds was the RPN's.
    kind, aligned, crowd_iou = roi.pop("mask_targets", None), roi.get("aligned", True), rpn.get("crowd_iou")
    roi = _grouped(roi, ROI)
    if kind:
        ratio = {"sampling_ratio": 0} if kind == "bins" else {}
        roi.setdefault("targets", {})["mask_sampling"] = {"kind": kind, "aligned": aligned, **ratio}
    if crowd_iou is not None:
        roi.setdefault("targets", {})["crowd_iou"] = crowd_iou
    return {**values, "rpn": _grouped(rpn, RPN), "roi": roi}


def _grouped(values: dict[str, Any], places: dict[str, tuple[str, str]]) -> dict[str, Any]:
    grouped: dict[str, Any] = {}
    for name, value in values.items():
        if name in places:
            group, inner = places[name]
            grouped.setdefault(group, {})[inner] = value
        else:
            grouped[name] = value
    return grouped


# A block's layers were numbered lists; the shortcut's two layers stood beside them.
BLOCK = r"(backbone\.stages\.\d+\.blocks\.\d+)"
LAYERS = (
    *((rf"{BLOCK}\.{kind}s\.{i}\.", rf"\1.{kind}{i + 1}.") for kind in ("conv", "norm") for i in range(3)),
    (rf"{BLOCK}\.shortcut_norm\.", r"\1.shortcut.norm."),
    (rf"{BLOCK}\.shortcut\.kernel", r"\1.shortcut.conv.kernel"),
)


def renamed_parameters(parameters: Mapping[str, T]) -> dict[str, T]:
    """The same parameters by today's dotted names; those that have them already keep them.

    >>> list(renamed_parameters({"backbone.stages.2.blocks.0.convs.1.kernel": 0, "fpn.outputs.0.bias": 1}))
    ['backbone.stages.2.blocks.0.conv2.kernel', 'fpn.outputs.0.bias']
    """
    renamed = {}
    for name, parameter in parameters.items():
        for old, new in LAYERS:
            name = re.sub(rf"^{old}", new, name)
        renamed[name] = parameter
    return renamed
