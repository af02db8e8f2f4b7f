"""Cut the peers' recorded numbers down to what the tests need: small plain arrays, nothing else.

    python tests/goldens/cut.py FOLDER [GROUP ...]

FOLDER holds the full recordings, one folder a peer (`matterport/goldens_components.npz`, ...). Every group below
becomes `tests/goldens/<group>.npz`; its function's docstring says where the numbers come from. Without names all are
cut.
"""

import hashlib
import json
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


MAPS = ("c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6")


def _ranked(objectness: np.ndarray, deltas: np.ndarray, kept: int) -> Arrays:
    """The RPN's outputs of the `kept` best anchors, in the order of the anchors."""
    index = np.sort(np.argsort(-objectness, kind="stable")[:kept]).astype(np.int32)
    return {"ranked.index": index, "ranked.objectness": objectness[index], "ranked.deltas": deltas[index]}


def _some(values: np.ndarray, name: str, step: int) -> Arrays:
    """Every `step`-th number of an array, and where it lies in the flattened array."""
    index = np.arange(0, values.size, step, dtype=np.int32)
    return {name: values.ravel()[index], f"{name}.index": index}


def matterport_network(folder: Path) -> Arrays:
    """Cut inference of Matterport's ResNet101 on one 512x512 image, in our conventions: pixels, x1 y1 x2 y2, one logit
    (see `maskrcnn_jax/convert/verify.py`). The image as differences along its rows, which pack better.
    """
    with np.load(folder / "matterport" / "goldens_infer_r101_512.npz") as arrays:
        recorded = dict(arrays)
    y1, x1, y2, x2 = recorded["window"]
    inside = recorded["resized"][y1:y2, x1:x2]
    cut: Arrays = {
        "image.differences": np.diff(inside, axis=1, prepend=np.zeros_like(inside[:, :1])),
        "image.size": np.array(recorded["resized"].shape),
        "window": np.array([x1, y1, x2, y2]),
    }
    for name in MAPS:
        stride = int(recorded[f"{name.upper()}__stride"])
        values = recorded[f"{name.upper()}__sub"]
        shape = recorded[f"{name.upper()}__shape"][1:]
        index = np.arange(len(values), dtype=np.int64)[::17] * stride
        ends = [
            np.arange(shape[0])[rows][:3, None] * shape[1] + np.arange(shape[1])[rows][:3]
            for rows in (slice(3), slice(-3, None))
        ]
        corners = [(e[..., None] * shape[2] + np.arange(4)).ravel() for e in ends]
        parts = [
            values[::17],
            recorded[f"{name.upper()}__corner"].ravel(),
            recorded[f"{name.upper()}__corner_br"].ravel(),
        ]
        cut[name], cut[f"{name}.index"] = np.concatenate(parts), np.concatenate([index, *corners]).astype(np.int32)

    logits = recorded["rpn_logits"]
    objectness, deltas = logits[:, 1] - logits[:, 0], recorded["rpn_bbox"][:, [1, 0, 3, 2]]
    cut |= _some(objectness, "objectness", 29) | _some(deltas, "rpn_deltas", 113)

    def pixels(boxes: np.ndarray) -> np.ndarray:
        return (boxes[:, [1, 0, 3, 2]] * 511 + [0, 0, 1, 1]).astype(np.float32)

    rows, few, masks = np.arange(0, 1000, 20), np.arange(0, 1000, 50), np.arange(0, 100, 20)
    detections = recorded["detections"]
    return (
        cut
        | _ranked(objectness, deltas, 2500)  # the last one that suppression leaves has rank 2204
        | {
            "proposals": pixels(recorded["rois"]),
            "class_logits.rows": rows,
            "class_logits": recorded["class_logits"][rows],
            "box_deltas.rows": few,
            "box_deltas": recorded["bbox_deltas"][few][..., [1, 0, 3, 2]],
            "score_threshold": np.array(0.0),
            "detections.boxes": pixels(detections[:, :4]),
            "detections.classes": detections[:, 4].astype(np.int32),
            "detections.scores": detections[:, 5],
            "detections.roi": _origins(recorded),
            "masks.rows": masks,
            "masks": recorded["masks_of_det_class"][masks],
        }
    )


def _origins(recorded: Arrays) -> np.ndarray:
    """The proposal that each of Matterport's detections was made of: same class, and the same box once decoded."""
    best = recorded["class_logits"].argmax(1)
    rois, deltas = recorded["rois"], recorded["bbox_deltas"][np.arange(1000), best] * [0.1, 0.1, 0.2, 0.2]
    sides = rois[:, 2:] - rois[:, :2]
    centres, sides = rois[:, :2] + (0.5 + deltas[:, :2]) * sides, sides * np.exp(deltas[:, 2:])
    window = recorded["window_norm"]
    boxes = np.concatenate([centres - 0.5 * sides, centres + 0.5 * sides], 1)
    boxes = np.clip(boxes, np.tile(window[:2], 2), np.tile(window[2:], 2))
    distance = np.abs(boxes[None] - recorded["detections"][:, None, :4]).max(-1)
    distance += recorded["detections"][:, None, 4] != best
    assert distance.min(1).max() < 1e-5
    return distance.argmin(1)


def _pytorch_network(recorded: Arrays) -> Arrays:
    """What the two PyTorch peers recorded in the same way; images are made by `tests/weight_files.py`."""
    cut: Arrays = {}
    for name in MAPS:
        _, c, h, w = recorded[f"{name.upper()}.shape"]
        at = np.arange(c * h * w).reshape(c, h, w)
        part = at[:: max(1, c // 32), :: max(1, h // 16), :: max(1, w // 16)]  # as recorded, [1, c, h, w]
        keep = slice(None, None, 4), slice(None), slice(None, None, 2)
        place = np.unravel_index(part[keep].ravel(), (c, h, w))
        cut[name] = recorded[f"{name.upper()}.sub"][0][keep].ravel()
        cut[f"{name}.index"] = np.ravel_multi_index((place[1], place[2], place[0]), (h, w, c)).astype(np.int32)
    objectness = np.concatenate([recorded[f"rpn.obj{i}"][0].transpose(1, 2, 0).ravel() for i in range(2, 7)])
    cut |= _some(objectness, "objectness", 13)
    cut["rpn_deltas"], cut["rpn_deltas.index"] = _pytorch_deltas(recorded)
    keep = slice(None, None, 31)
    cut |= {k: cut[k][keep] for k in ("rpn_deltas", "rpn_deltas.index")}
    rows, few, masks = np.arange(0, 1000, 20), np.arange(0, 300, 15), np.arange(0, 100, 20)
    return cut | {
        "proposals": recorded["proposals"],
        "class_logits.rows": rows,
        "class_logits": recorded["cls_logits"][rows],
        "box_deltas.rows": few,
        "box_deltas": recorded["box_deltas.first300"][few].reshape(len(few), -1, 4),
        "detections.boxes": recorded["det.boxes"] / np.float32(1.25),  # the outputs are 640 wide, the image 512
        "detections.classes": recorded["det.labels"].astype(np.int32),
        "detections.scores": recorded["det.scores"],
        "masks.rows": masks,
        "masks": 1 / (1 + np.exp(-recorded["mask_logits.label"][masks].astype(np.float64))),
    }


def _pytorch_deltas(recorded: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """All recorded deltas (of P2 every second row and column) and where they lie in [a, 4], flattened."""
    values, index, start = [], [], 0
    for level in range(2, 7):
        anchors, h, w = recorded[f"rpn.obj{level}"].shape[1:]
        at = start + np.arange(h * w * 4 * anchors).reshape(h, w, 4 * anchors)
        step = 2 if level == 2 else 1
        values.append(recorded[f"rpn.delta{level}"][0].transpose(1, 2, 0).ravel())
        index.append(at[::step, ::step].ravel())
        start += at.size
    return np.concatenate(values), np.concatenate(index).astype(np.int32)


def torchvision_network(folder: Path) -> Arrays:
    """Cut inference of torchvision's R101-FPN on `make_image(400, 640, 11)` resized to 320x512."""
    with np.load(folder / "torchvision_detectron2" / "tv_whole_r101.npz") as recorded:
        return _pytorch_network(dict(recorded))


def detectron2_network(folder: Path) -> Arrays:
    """Cut inference of Detectron2's R101-FPN on `make_image(320, 512, 11)`, with the background first, not last."""
    with np.load(folder / "torchvision_detectron2" / "d2_whole_r101.npz") as recorded:
        cut = _pytorch_network(dict(recorded))
    cut["class_logits"] = np.roll(cut["class_logits"], 1, axis=1)
    cut["box_deltas"] = np.pad(cut["box_deltas"], ((0, 0), (1, 0), (0, 0)))
    cut["detections.classes"] += 1
    return cut


def matterport_training(folder: Path) -> Arrays:
    """Cut one training step of Matterport's ResNet101 at 256: image, samples, losses, L2 norms of the gradients."""
    with np.load(folder / "matterport" / "goldens_train_r101_256.npz") as recorded:
        names = ["rpn_match", "rpn_bbox_target", "sampled_rois", "target_class_ids", "target_bbox", "losses"]
        cut = {name: recorded[name] for name in [*names, "target_mask", "target_mask_shape", "grad_names", "grad_l2"]}
        return cut | {"image.differences": np.diff(recorded["image"], axis=1, prepend=np.uint8(0))}


def torchvision_training(folder: Path) -> Arrays:
    """Cut one training step of torchvision's R101-FPN on two images: samples, losses, and of each gradient the L2 norm,
    sum, largest value and projection on a random direction.
    """
    gradients = json.loads((folder / "torchvision_detectron2" / "tv_train_grads.json").read_text())
    with np.load(folder / "torchvision_detectron2" / "tv_train_r101.npz") as recorded:
        parts = ("sampled.props", "sampled.matched", "sampled.labels", "sampled.targets", "rpn_labels", "resized_gt")
        names = [f"{i}.{p}" for i in "ab" for p in (*parts, "resized_masks_bits", "resized_masks_shape")]
        cut = {name: recorded[name] for name in [*names, *(k for k in recorded if k.startswith("loss."))]}
    trained = gradients["grads"]
    return cut | {"grad_names": np.array(list(trained)), "grads": np.array(list(trained.values()))}


def weight_digests(folder: Path) -> Arrays:
    """Cut digests of the arrays that the peers were run with: one over all of Matterport's, some of the others'."""
    all_of_them = json.loads((folder / "matterport" / "weights_sha1.json").read_text())
    lines = "".join(f"{name} {values['sha1']}\n" for name, values in sorted(all_of_them.items()))
    checks = json.loads((folder / "torchvision_detectron2" / "recipe_checks.json").read_text())
    digests = {name: values["sha256"] for name, values in checks.items() if "sha256" in values}
    layouts = {}
    for peer in ("tv", "d2"):
        layout = json.loads((folder / "torchvision_detectron2" / f"{peer}_r101_layout.json").read_text())
        text = "".join(f"{name} {values['shape']}\n" for name, values in sorted(layout.items()))
        layouts[f"{peer}_layout"] = np.array(hashlib.sha1(text.encode()).hexdigest())
    return layouts | {
        "matterport": np.array(hashlib.sha1(lines.encode()).hexdigest()),
        "pytorch_names": np.array(list(digests)),
        "pytorch_shapes": np.array([str(checks[name]["shape"]) for name in digests]),
        "pytorch": np.array(list(digests.values())),
    }


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
    matterport_network,
    torchvision_network,
    detectron2_network,
    matterport_training,
    torchvision_training,
    weight_digests,
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
