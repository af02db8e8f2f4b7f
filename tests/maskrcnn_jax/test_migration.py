"""A config as version 0.2 wrote it, flat, and its names of parameters are read as today's."""

import dataclasses
import re

from maskrcnn_jax import checkpoint
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.migration import RPN, grouped_config, renamed_parameters

# What 0.2 wrote for `torchvision_coco()`, where it differs from today.
FLAT_RPN = {
    "channels": 256, "delta_weights": [1.0] * 4, "max_log_scale": 4.135166556742356, "positive_iou": 0.7,
    "negative_iou": 0.3, "samples": 256, "max_positive": 128, "crowd_iou": 0.001, "class_normaliser": "sampled",
    "box_normaliser": "sampled", "box_beta": 1 / 9, "box_weight": 1.0, "per_level": True, "score": "probability",
    "before_nms": [2000, 1000], "after_nms": [2000, 1000], "nms_iou": 0.7, "min_side": 0.001, "clip_to": "window",
}  # fmt: skip
FLAT_ROI = {
    "pooling": "bins", "sampling_ratio": 2, "max_samples": 8, "aligned": False, "reduce": "mean",
    "canonical_size": 224.0, "level_rounding": "floor", "level_epsilon": 1e-06, "box_size": 7, "box_hidden": 1024,
    "mask_size": 14, "mask_channels": 256, "mask_layers": 4, "delta_weights": [10.0, 10.0, 5.0, 5.0],
    "max_log_scale": 4.135166556742356, "truth_copies": 1, "truth_jitter": 0.0, "samples": 512, "max_positive": 128,
    "positive_iou": 0.5, "negatives_per_positive": None, "mask_targets": "bins", "binary_mask_targets": False,
    "class_normaliser": "sampled", "box_normaliser": "sampled", "box_beta": 1 / 9,
}  # fmt: skip


def test_a_flat_config_is_grouped():
    today = MaskRCNNConfig.torchvision_coco()
    read = MaskRCNNConfig.from_dict(grouped_config({**today.to_dict(), "rpn": FLAT_RPN, "roi": FLAT_ROI}))
    assert read == today


def test_a_grouped_config_stays():
    values = MaskRCNNConfig.tiny().to_dict()
    assert grouped_config(values) is values


def test_every_field_has_a_place():
    groups = {f.name for f in dataclasses.fields(MaskRCNNConfig().rpn)}
    assert set(FLAT_RPN) == {*RPN, "channels"}
    assert {group for group, _ in RPN.values()} == groups - {"channels"}


def name_of_version_0_2(name):
    """Convolutions and norms of a block were lists counted from 0, and the shortcut's stood side by side."""
    name = re.sub(r"(blocks\.\d+)\.(conv|norm)(\d)", lambda m: f"{m[1]}.{m[2]}s.{int(m[3]) - 1}", name)
    return name.replace("shortcut.conv.", "shortcut.").replace("shortcut.norm.", "shortcut_norm.")


def test_every_parameter_finds_its_name():
    for config in (MaskRCNNConfig.tiny(), MaskRCNNConfig.torchvision_coco(50)):
        names = list(checkpoint.named_shapes(config))
        old = {name_of_version_0_2(name): name for name in names}
        assert len(old) == len(names)
        assert sum(name not in names for name in old) > 50
        assert renamed_parameters(old) == {name: name for name in names}
        assert list(renamed_parameters(dict.fromkeys(names))) == names
