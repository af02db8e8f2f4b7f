"""Masks as a LabelMe file that a person corrects, and that `crystal convert` reads back as the same masks.

An outline is polygons where they reproduce the mask, several parts under one `group_id`; a mask with a hole, or too
small for polygons, is a shape of type "mask".
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crystal.data.images import encode_png
from crystal.data.outlines import Mask, cut, polygons

VERSION = "6.0.0"  # of LabelMe's format; from 5.3 on files look the same
LEAST_IOU = 0.985  # between a mask and its polygons: rounding the points must leave 0.98


def _boxed(mask: Mask) -> tuple[list[list[float]], str]:
    """Box and PNG of a mask. The box's second corner is its last pixel, as LabelMe has it."""
    patch, top, left = cut(mask)
    picture = encode_png(patch.astype(np.uint8) * 255)
    height, width = patch.shape
    corners = [[float(left), float(top)], [float(left + width - 1), float(top + height - 1)]]
    return corners, base64.b64encode(picture).decode("ascii")


def instance_shapes(
    mask: Mask, outlines: Sequence[Sequence[float]], *, label: str, number: int, description: str, crowd: bool = False
) -> list[dict[str, Any]]:
    """LabelMe's shapes of one instance.

    Args:
        mask: not empty.
        outlines: polygons that reproduce it, flat x, y, x, y, ...; none: a shape of type "mask" is written.
        label: its category.
        number: its `group_id`, where it has several parts.
        description: shown by LabelMe beside the label.
        crowd: whether it is a region to ignore.
    """
    parts: list[tuple[list, str | None]] = [(np.reshape(outline, (-1, 2)).tolist(), None) for outline in outlines]
    return [
        {
            "label": label,
            "points": points,
            "group_id": number if len(parts) > 1 else None,
            "description": description,
            "shape_type": "mask" if picture else "polygon",
            "flags": {"crowd": True} if crowd else {},
            "mask": picture,
        }
        for points, picture in parts or [_boxed(mask)]
    ]


def labelme_shapes(
    rles: Sequence[dict[str, Any]], labels: Sequence[str], scores: Sequence[float]
) -> list[dict[str, Any]]:
    """The shapes of predicted instances, at least one each; `rles` compressed, none of them empty."""
    shapes: list[dict[str, Any]] = []
    for number, (rle, label, score) in enumerate(zip(rles, labels, scores, strict=True), 1):
        outlines, exact = polygons(rle, least_iou=LEAST_IOU)
        described = f"score {score:.3f}"
        shapes += instance_shapes(rle, outlines if exact else [], label=label, number=number, description=described)
    return shapes


def _fingerprint(shapes: list[dict]) -> str:
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:16]


def labelme_document(shapes: list[dict], *, image: Path, place: Path, height: int, width: int) -> dict[str, Any]:
    """A LabelMe file of predicted shapes: `place` is where it will lie, from which `image` is found."""
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(os.path.relpath(image.absolute(), place.parent.absolute())).as_posix(),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        "predicted": _fingerprint(shapes),  # LabelMe keeps keys that it does not know
    }


def is_edited(path: Path) -> bool:
    """Whether a LabelMe file was made or changed by a person since it was predicted."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["predicted"] != _fingerprint(content["shapes"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        return True
