"""Torchvision's Mask R-CNN v1, ResNet50-FPN (as published in 2019) or ResNet18, 34 or 101: names and conversion rules.

Images are RGB, as here; classes are COCO's ids, gaps included, background first, and box and mask outputs have rows for
the background. The epsilon of frozen batch norm is 0 for the weights of 2019 and 1e-5 otherwise; it is not in the file.
"""

import dataclasses
import re
from collections.abc import Mapping

from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.convert.pickles import Entry
from maskrcnn_jax.convert.pytorch import body, conv, linear, norm, resnet_depth, transposed_conv
from maskrcnn_jax.convert.table import ConversionError, Rule, Shape, classes_of

EPSILON, EPSILON_2019 = 1e-5, 0.0
IGNORED = {r".*\.num_batches_tracked": "a training counter without effect on outputs"}
# Names before torchvision 0.14, and since.
OLD_NAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (
        r"roi_heads\.mask_head\.mask_fcn([1-4])\.(weight|bias)",
        lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}",
    ),
)


CLASS_WEIGHTS = "roi_heads.box_predictor.cls_score.weight"  # a row a class
V2 = ("rpn.head.conv.1.", "roi_heads.box_head.0.", "backbone.fpn.inner_blocks.0.1.")  # what only v2 has


def is_torchvision(names: Mapping[str, Entry]) -> bool:
    """Whether the names are those of torchvision's detection models."""
    return any(name.startswith("backbone.body.") for name in names)


def has_old_names(names: Mapping[str, Entry]) -> bool:
    """Whether the names are those before torchvision 0.14, as in the weights of 2019."""
    return "rpn.head.conv.weight" in names


def with_current_names(names: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same arrays under torchvision's current names."""
    renamed = {}
    for name, entry in names.items():
        for old, new in OLD_NAMES:
            name = re.sub(rf"^{old}$", new, name)
        renamed[name] = entry
    return renamed


def config(names: Mapping[str, Entry]) -> MaskRCNNConfig:
    """`torchvision_coco` with the depth found in the names, and the file's number of classes.

    Raises ConversionError for the networks that torchvision calls v2.
    """
    if any(name.startswith(V2) for name in names):
        raise ConversionError(
            "of torchvision's v2 models (maskrcnn_resnet50_fpn_v2), another network, with norms in the FPN and more "
            "convolutions in RPN and box head, which is not supported; take maskrcnn_resnet50_fpn"
        )
    basic = "backbone.body.layer1.0.conv3.weight" not in names
    preset = MaskRCNNConfig.torchvision_coco(resnet_depth(names, "backbone.body.layer3.", basic=basic))
    return dataclasses.replace(preset, classes=classes_of(names.get(CLASS_WEIGHTS), preset.classes, axis=0))


def rules(wanted: Mapping[str, Shape], depths: tuple[int, ...], *, epsilon: float) -> list[Rule]:
    """All conversion rules. `wanted`: shapes of our parameters."""
    names = {"norm_name": "bn{i}", "shortcut": ("downsample.0", "downsample.1")}
    table = [
        *conv(wanted, "backbone.stem", "backbone.body.conv1"),
        *norm(wanted, "backbone.stem_norm", "backbone.body.bn1", epsilon),
        *body(wanted, depths, "backbone.body.layer{layer}.{block}", **names, epsilon=epsilon),
    ]
    for level in range(4):
        table += conv(wanted, f"fpn.laterals.{level}", f"backbone.fpn.inner_blocks.{level}.0")
        table += conv(wanted, f"fpn.outputs.{level}", f"backbone.fpn.layer_blocks.{level}.0")
    for i in range(4):
        table += conv(wanted, f"mask_head.convs.{i}", f"roi_heads.mask_head.{i}.0")
    return [
        *table,
        *conv(wanted, "rpn.shared", "rpn.head.conv.0.0"),
        *conv(wanted, "rpn.objectness", "rpn.head.cls_logits"),
        *conv(wanted, "rpn.deltas", "rpn.head.bbox_pred"),
        *linear(wanted, "box_head.first", "roi_heads.box_head.fc6", bins=7),
        *linear(wanted, "box_head.second", "roi_heads.box_head.fc7"),
        *linear(wanted, "box_head.classes", "roi_heads.box_predictor.cls_score"),
        *linear(wanted, "box_head.deltas", "roi_heads.box_predictor.bbox_pred"),
        *transposed_conv(wanted, "mask_head.double", "roi_heads.mask_predictor.conv5_mask"),
        *conv(wanted, "mask_head.masks", "roi_heads.mask_predictor.mask_fcn_logits"),
    ]
