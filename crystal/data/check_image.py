"""What is wrong with one image and its objects, beyond what reading the COCO file tells.

The image is read by the function that training uses, so that problems are those that training meets. Runs in threads,
and returns no pixels: memory does not grow with the dataset.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_mask

from crystal.data.dataset import Instance, Record, fits_pixels
from crystal.data.images import count_pages
from crystal.data.outlines import crosses_itself
from crystal.data.preparation import read_record_image
from crystal.data.problems import Effect, Problem
from crystal.data.segmentation import to_rle
from crystal.errors import CrystalError

SAME_BOX = 0.7  # IoU of boxes whose masks are compared
NEAR, SAME = 0.85, 0.99  # IoU of masks called nearly the same, the same


class CheckedImage(NamedTuple):
    """An image's problems, and a hash of its pixels, None if they cannot be read."""

    problems: list[Problem]
    content: bytes | None


def _overlaps(box: Float[np.ndarray, " 4"], others: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    # In NumPy: JAX would compile for each number of objects.
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)


def _duplicates(record: Record, objects: list[Instance], masks: list[Any]) -> list[Problem]:
    """Objects that cover nearly the same pixels as a larger one, each reported once."""
    if not objects:
        return []
    boxes = np.array([i.box for i in objects])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = np.argsort(-area, kind="stable")
    boxes, area = boxes[order], area[order]
    found = []
    for this in range(1, len(order)):
        first = int(np.searchsorted(-area, -area[this] / SAME_BOX))  # boxes larger than that cannot agree
        alike = _overlaps(boxes[this], boxes[first:this])
        likely = first + np.argsort(-alike, kind="stable")[: np.count_nonzero(alike > SAME_BOX)][:3]
        mask = masks[order[this]]
        shared = [float(np.asarray(coco_mask.iou([masks[order[k]]], [mask], [0])).item()) for k in likely]
        if shared and max(shared) >= NEAR:
            one, other = objects[order[this]], objects[order[likely[int(np.argmax(shared))]]]
            text = "it is the same as another" if max(shared) >= SAME else "it is nearly the same as another"
            detail = f" ({other.annotation_id}, IoU {max(shared):.2f})"
            found.append(Problem(record.file_name, one.annotation_id, text, Effect.ALL_USED, detail))
    return found


def _object(record: Record, instance: Instance, mask: Any) -> list[Problem]:
    """Problems of one object by itself."""

    def problem(text: str, effect: Effect, detail: str = "") -> Problem:
        return Problem(record.file_name, instance.annotation_id, text, effect, detail)

    found = []
    pixels = int(coco_mask.area(mask))
    if not pixels:
        found.append(problem("it is too thin to cover a pixel's centre", Effect.EMPTY_MASK))
    outline = instance.segmentation
    if isinstance(outline, list) and any(crosses_itself(np.reshape(part, (-1, 2))) for part in outline):
        found.append(problem("the polygon crosses itself", Effect.PARITY))
    if instance.area is None:
        found.append(problem("its area is not given", Effect.UNREAD))
    elif not fits_pixels(instance, pixels):
        found.append(problem("its area is wrong", Effect.UNREAD, f" ({instance.area:g}, outlined are {pixels})"))
    if instance.crowd:
        found.append(problem("it is a crowd", Effect.IGNORED))
    return found


def check_image(record: Record, *, slots: int) -> CheckedImage:
    """Read an image and check all its objects; `slots`: the number of them that training uses at most."""
    try:
        image = read_record_image(record)
    except CrystalError as error:
        text = str(error).removeprefix(f"{record.path}: ")
        return CheckedImage([Problem(record.file_name, None, text, Effect.STOPS)], None)
    content = hashlib.blake2b(image.tobytes(), digest_size=16, person=str(image.shape[:2])[:16].encode())
    del image  # to free its memory while the objects are checked
    masks = [to_rle(i.segmentation, record.height, record.width) for i in record.instances]
    problems = [
        p for i, mask in zip(record.instances, masks, strict=True) if i.outlined for p in _object(record, i, mask)
    ]
    stack = count_pages(record.path).stack
    if stack > 1:
        problems.append(Problem(record.file_name, None, "it has several pages", Effect.SHARPEST, f" ({stack})"))
    objects = [k for k, i in enumerate(record.instances) if not i.crowd]
    problems += _duplicates(record, [record.instances[k] for k in objects], [masks[k] for k in objects])
    if not objects:
        problems.append(Problem(record.file_name, None, "no object is outlined in it", Effect.BACKGROUND))
    if len(record.instances) > slots:
        text, detail = "it has more objects than training takes", f" ({len(record.instances)}, {slots} slots)"
        problems.append(Problem(record.file_name, None, text, Effect.SMALLEST_LEFT_OUT, detail))
    return CheckedImage(problems, content.digest())
