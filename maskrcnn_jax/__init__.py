"""Mask R-CNN from scratch in JAX and Flax NNX, one short module per component.

Network: MaskRCNN, MaskRCNNConfig
Bundles: GroundTruth, Proposals, Detections, Losses, Stages
Images:  clahe, clahe_rgb, equalize, letterbox, Letterbox
Boxes:   area, clip, iou, encode, decode, match, nms, pyramid_anchors
Regions: roi_align, pyramid_roi_align, crop_and_resize, assign_levels, paste

`maskrcnn_jax.structures` is the glossary of axes, words and units; `maskrcnn_jax.training` trains,
`maskrcnn_jax.checkpoint` saves and loads, `maskrcnn_jax.convert` reads the weights of other projects.

The names above are imported lazily: input workers import this package for the letterbox alone and must not load JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskrcnn_jax.boxes.coding import decode, encode
    from maskrcnn_jax.boxes.geometry import area, clip, iou
    from maskrcnn_jax.boxes.matching import match
    from maskrcnn_jax.boxes.nms import nms
    from maskrcnn_jax.config import MaskRCNNConfig
    from maskrcnn_jax.image.clahe import clahe, clahe_rgb, equalize
    from maskrcnn_jax.image.letterbox import Letterbox, letterbox
    from maskrcnn_jax.model import MaskRCNN
    from maskrcnn_jax.roi.align import assign_levels, crop_and_resize, pyramid_roi_align, roi_align
    from maskrcnn_jax.roi.masks import paste
    from maskrcnn_jax.rpn.anchors import pyramid_anchors
    from maskrcnn_jax.structures import Detections, GroundTruth, Losses, Proposals, Stages

__version__ = "0.2.0"

_MODULES = {
    "boxes.coding": ("decode", "encode"),
    "boxes.geometry": ("area", "clip", "iou"),
    "boxes.matching": ("match",),
    "boxes.nms": ("nms",),
    "config": ("MaskRCNNConfig",),
    "image.clahe": ("clahe", "clahe_rgb", "equalize"),
    "image.letterbox": ("Letterbox", "letterbox"),
    "model": ("MaskRCNN",),
    "roi.align": ("assign_levels", "crop_and_resize", "pyramid_roi_align", "roi_align"),
    "roi.masks": ("paste",),
    "rpn.anchors": ("pyramid_anchors",),
    "structures": ("Detections", "GroundTruth", "Losses", "Proposals", "Stages"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Detections",
    "GroundTruth",
    "Letterbox",
    "Losses",
    "MaskRCNN",
    "MaskRCNNConfig",
    "Proposals",
    "Stages",
    "area",
    "assign_levels",
    "clahe",
    "clahe_rgb",
    "clip",
    "crop_and_resize",
    "decode",
    "encode",
    "equalize",
    "iou",
    "letterbox",
    "match",
    "nms",
    "paste",
    "pyramid_anchors",
    "pyramid_roi_align",
    "roi_align",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module at first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names as well, imported or not yet: for `help`, `dir` and completion."""
    return sorted({*globals(), *__all__})
