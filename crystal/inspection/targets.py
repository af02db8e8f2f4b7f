"""One image with its ground truth: the anchors and RoIs that training would sample, their targets, and the losses.

All of it comes from `MaskRCNN.supervise`, on which the losses of training are built, and the outputs of `inspector.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from crystal.data.anchor_coverage import best_iou
from crystal.data.ground_truth import ImageGroundTruth, read_ground_truth
from crystal.data.loader import MASK_SIZE
from crystal.data.preparation import Collate, Sources, Vary
from crystal.errors import CrystalError
from crystal.inspection.inspector import ForwardPass, Inspection, first_image
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.model import Supervision
from maskrcnn_jax.structures import GroundTruth, Losses


class TrainingTargets(NamedTuple):
    """The targets that training would set for this image.

    Attributes:
        truth: the annotated objects.
        boxes: of all objects but crowds, in letterboxed pixels, in the order of `numbers`.
        numbers: indices of those objects among the record's instances.
        reached: highest IoU of each object with any anchor.
        proposed: highest IoU of each object with any proposal of inference.
        supervision: sampled anchors and RoIs with their targets, without the batch dimension.
        owner: for each sampled anchor the index in `boxes` of the object that it overlaps most.
        losses: the five losses and their weighted sum.
    """

    truth: ImageGroundTruth
    boxes: Float[np.ndarray, "g 4"]
    numbers: list[int]
    reached: Float[np.ndarray, " g"]
    proposed: Float[np.ndarray, " g"]
    supervision: Supervision
    owner: Int[np.ndarray, " s"]
    losses: Losses


class NoGroundTruth(NamedTuple):
    """Why the losses are missing."""

    reason: str


def find_truth(
    image: Path, size: tuple[int, int], given: Path | None, classes: Sequence[tuple[int, str]]
) -> ImageGroundTruth | NoGroundTruth:
    """The ground truth of --truth, or of the LabelMe file beside the image, whose size is (height, width).

    Raises:
        CrystalError: the file given by --truth cannot be used. One found beside the image may be something else.
    """
    beside = image.with_suffix(".json")
    if given is None and not beside.is_file():
        return NoGroundTruth(f"there is no {beside.name} beside the image, and no --truth was given")
    try:
        return read_ground_truth(image, size, given or beside, classes)
    except CrystalError as error:
        if given is not None:
            raise
        return NoGroundTruth(f"the one beside the image was not used: {error}")


def supervise(inspection: Inspection, forward: ForwardPass, truth: ImageGroundTruth) -> TrainingTargets:
    """Sample anchors and RoIs as training does, with key 0, and compute their targets and losses."""
    size, record = inspection.config.image.size, truth.record
    slots = max(len(record.instances), 1)
    views = {"size": size, "zooms": (1.0, 1.0), "mask_size": MASK_SIZE}
    source = Sources([record], clahe=inspection.equalised is not None, cache_bytes=0, **views)[0]
    batch = Collate(slots)([Vary(slots=slots, how=None, **views)(source, np.random.default_rng(0))])
    ground_truth = GroundTruth(*map(jnp.asarray, (batch.boxes, batch.classes, batch.masks, batch.valid, batch.crowd)))
    result: Supervision = forward.run(
        "targets and losses, as in training",
        lambda m, *given: m.supervise(*given),
        forward.pyramid,
        forward.objectness,
        forward.deltas,
        ground_truth,
        jax.random.key(0),
        forward.windows,
        shown=lambda r: (r.anchors.indices, r.rois.boxes, r.rois.masks),
    )
    numbers = [k for k, i in enumerate(record.instances) if not i.crowd]
    boxes = inspection.place.to_letterbox(np.array([record.instances[k].box for k in numbers]).reshape(-1, 4))
    proposals = inspection.proposals.boxes[inspection.proposals.valid]
    drawn = inspection.anchors[np.asarray(result.anchors.indices[0])]
    own = jnp.asarray(boxes, jnp.float32)
    proposed = np.asarray(iou(own, jnp.asarray(proposals)).max(1, initial=0.0))
    owner = np.asarray(iou(own, jnp.asarray(drawn))).argmax(0) if numbers else np.zeros(len(drawn), int)
    return TrainingTargets(
        truth=truth,
        boxes=boxes,
        numbers=numbers,
        reached=best_iou(boxes, size, inspection.config.anchors),
        proposed=proposed,
        supervision=Supervision(*first_image(result[:3]), losses=result.losses),
        owner=owner,
        losses=jax.tree.map(float, result.losses),
    )
