"""Cut the peers' recorded numbers down to what the tests need: small plain arrays, nothing else.

    python tests/goldens/cut.py FOLDER [GROUP ...]

FOLDER holds the full recordings, one folder a peer (`matterport/goldens_components.npz`, ...). Every group below
becomes `tests/goldens/<group>.npz`; its function's docstring says where the numbers come from. Without names all are
cut.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]  # of NumPy arrays


def _components(folder: Path) -> Arrays:
    with np.load(folder / "matterport" / "goldens_components.npz") as recorded:
        return dict(recorded)


def _torchvision(folder: Path, peer: str = "tv") -> Arrays:
    with np.load(folder / "torchvision_detectron2" / f"{peer}_components.npz") as recorded:
        return dict(recorded)


def matterport_ap(folder: Path) -> Arrays:
    """Cut `compute_ap` of Matterport Mask R-CNN on four images at IoU 0.50 and 0.65; masks as packed bits [h, w, n]."""
    return {key: value for key, value in _components(folder).items() if key[:2] == "ap" and key[2].isdigit()}


def matterport_resize(folder: Path) -> Arrays:
    """Cut `resize_image` of Matterport Mask R-CNN (scikit-image 0.16.2): 0 grows, 1 shrinks, one channel of it."""
    recorded = _components(folder)
    cut = {key: recorded[key] for key in ("rz0_in", "rz0_out", "rz0_window", "rz0_scale", "rz1_window", "rz1_scale")}
    return cut | {key: recorded[key][..., :1] for key in ("rz1_in", "rz1_out")}


def matterport_boxes(folder: Path) -> Arrays:
    """Cut coding, overlaps, clipping, NMS, level-wise pooling and one small ProposalLayer of Matterport Mask R-CNN."""
    recorded = _components(folder)
    names = ["boxes_a", "boxes_b", "deltas", "apply_box_deltas", "box_refinement", "overlaps", "clip_boxes"]
    return {k: v for k, v in recorded.items() if k in names or k.startswith(("nms_", "pra_", "pl_"))}


def matterport_crops(folder: Path) -> Arrays:
    """Cut `tf.image.crop_and_resize` (TensorFlow 1.13.1) of eight boxes at 1, 7 and 14 samples a side."""
    return {k: v for k, v in _components(folder).items() if k.startswith("car_") and "2x5" not in k}


def matterport_targets(folder: Path) -> Arrays:
    """Cut `build_rpn_targets` (before sampling; labels as indices) and DetectionTargetLayer, masks as packed bits."""
    recorded = _components(folder)
    cut = {k: v for k, v in recorded.items() if k.startswith(("dt_", "minimize_mask_", "rpnt_gt"))}
    for case in ("crowd", "nocrowd"):
        labels = recorded[f"rpnt_{case}_match_full"]
        cut[f"rpnt_{case}_positive"], cut[f"rpnt_{case}_ignored"] = (
            np.flatnonzero(labels == 1),
            np.flatnonzero(labels == 0),
        )
        cut[f"rpnt_{case}_deltas"] = recorded[f"rpnt_{case}_bbox_full"].astype(np.float32)
    return cut


def matterport_losses(folder: Path) -> Arrays:
    """Cut the five losses of Matterport Mask R-CNN; of the masks only each positive RoI's own class."""
    cut = {k: v for k, v in _components(folder).items() if k.startswith("ls_")}
    masks, classes = cut.pop("ls_pred_mask"), cut["ls_target_class_ids"]
    positive = np.nonzero(classes)
    return cut | {"ls_own_mask": masks[(*positive, slice(None), slice(None), classes[positive])]}


def matterport_detections(folder: Path) -> Arrays:
    """Cut DetectionLayer at 512, three settings: of each proposal the best class, its probability and its deltas."""
    with np.load(folder / "matterport" / "goldens_infer_r101_512.npz") as recorded:
        cut = {k: recorded[k] for k in ("rois", "window_norm")} | {
            k: recorded[k] for k in recorded if k[:10] == "detections"
        }
        logits, deltas = recorded["class_logits"].reshape(-1, 81), recorded["bbox_deltas"].reshape(-1, 81, 4)
    best = logits.argmax(1)
    shares = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    rows = np.arange(len(best))
    return cut | {
        "best_class": best.astype(np.uint8),
        "best_probability": shares[rows, best] / shares.sum(1),
        "best_deltas": deltas[rows, best],
    }


def matterport_layers(folder: Path) -> Arrays:
    """Cut single Keras 2.2.4 layers on one 8x8 input: convolutions, transposed convolution, pools, batch norm."""
    return {k: v for k, v in _components(folder).items() if k.startswith("kp_")}


def anchors(folder: Path) -> Arrays:
    """Cut every 7th anchor of Matterport (256x256; y1, x1, y2, x2), torchvision and Detectron2 (256x320)."""
    tv, d2 = _torchvision(folder), _torchvision(folder, "d2")
    return {
        "matterport": _components(folder)["anchors256"][::7],
        "torchvision": tv["anchors.256x320"][::7],
        "detectron2": d2["anchors.256x320"][::7],
    }


def torchvision_roi_align(folder: Path) -> Arrays:
    """Cut `torchvision.ops.roi_align` 0.28 and its gradient: outputs 5, 7, 14; two of the eight channels."""
    recorded = _torchvision(folder)
    cut = {k: v[:, :2] for k, v in recorded.items() if k.startswith("roi.") and v.ndim == 4}
    return cut | {"roi.rois": recorded["roi.rois"], "roi.spatial_scale": recorded["roi.spatial_scale"]}


def torchvision_boxes(folder: Path) -> Arrays:
    """Cut NMS, IoU, box coding, matching, level assignment and proposals of torchvision, levels of Detectron2."""
    prefixes = ("nms.", "coder.", "match.", "level.boxes", "level.ids", "rpnprop.")
    cut = {k: v for k, v in _torchvision(folder).items() if k.startswith(prefixes)}
    return cut | {"d2.level.ids": _torchvision(folder, "d2")["level.ids"]}


def torchvision_losses(folder: Path) -> Arrays:
    """Cut the losses of torchvision with their gradients, its RPN and mask targets, and Detectron2's mask targets."""
    cut = {k: v for k, v in _torchvision(folder).items() if k.startswith(("frloss.", "mloss.", "rpnloss."))}
    labels = cut.pop("rpnloss.labels")
    cut["rpnloss.positive"], cut["rpnloss.ignored"] = np.flatnonzero(labels == 1), np.flatnonzero(labels == -1)
    # The gradient of the mask loss is 0 for every class but a RoI's own.
    own = (np.arange(6), cut["mloss.gt_labels"][cut["mloss.matched"]])
    for name in ("mloss.logits", "mloss.dlogits"):
        cut[name] = cut[name][own]
    return cut | {"d2.mloss.targets": _torchvision(folder, "d2")["mloss.targets"]}


def pasting(folder: Path) -> Arrays:
    """Cut five 28x28 masks and where each source pastes them: 1 at 0.5 or more, packed bits of [5, 60, 80]; and one of
    Matterport's.
    """
    tv, d2, mp = _torchvision(folder), _torchvision(folder, "d2"), _components(folder)
    return {
        "masks": tv["paste.masks"][:, 0],
        "boxes": tv["paste.boxes"],
        "torchvision": np.packbits(tv["paste.out"][:, 0] >= 0.5),
        "detectron2": np.packbits(d2["paste.prob_ge_0.5"]),
    } | {k: v for k, v in mp.items() if k.startswith("unmold_")}


GROUPS: tuple[Callable[[Path], Arrays], ...] = (
    matterport_ap,
    matterport_resize,
    matterport_boxes,
    matterport_crops,
    matterport_targets,
    matterport_losses,
    matterport_detections,
    matterport_layers,
    anchors,
    torchvision_roi_align,
    torchvision_boxes,
    torchvision_losses,
    pasting,
)


def main(folder: Path, names: list[str]) -> None:
    for group in GROUPS:
        if not names or group.__name__ in names:
            destination = Path(__file__).parent / f"{group.__name__}.npz"
            np.savez_compressed(destination, **group(folder))
            print(f"{destination.name}: {destination.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
