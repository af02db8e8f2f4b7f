"""The five losses of recorded samples, and their gradients, of a converted model."""

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from maskrcnn_jax import checkpoint
from maskrcnn_jax.image.normalise import normalise
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.roi.loss import roi_losses
from maskrcnn_jax.roi.targets import RoITargets
from maskrcnn_jax.rpn.loss import rpn_losses
from maskrcnn_jax.rpn.targets import RPNTargets
from tests.compiler import FOR_LOOPS

NAMES = ("rpn_class", "rpn_box", "roi_class", "roi_box", "roi_mask")


def losses_and_gradients(
    model: MaskRCNN, images: Any, windows: Any, for_rpn: RPNTargets, for_heads: RoITargets, class_boxes: Any = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(losses, gradient of their sum by parameter name). `for_heads` has its positives first;
    `class_boxes` take the place of its boxes in the box head.
    """
    class_boxes = for_heads.boxes if class_boxes is None else class_boxes
    rpn, roi = model.config.rpn, model.config.roi
    graph, state = nnx.split(model)

    # The peers' gradients are met to 1e-4, of which a program that is not optimised at all takes its part.
    @partial(jax.jit, compiler_options=FOR_LOOPS)
    def run(state, images, windows, for_rpn, for_heads, class_boxes):
        def total(state):
            ours = nnx.merge(graph, state)
            # Not `features`, which refuses the 352 rows that torchvision pads two images to: no multiple of 64.
            pyramid = ours.fpn(ours.backbone(normalise(images, windows, config=ours.config.image))[1:])
            objectness, deltas = ours.rpn(pyramid)
            class_logits, box_deltas = ours.classify(pyramid, class_boxes)
            mask_logits = ours.outline(pyramid, for_heads.boxes[:, : for_heads.masks.shape[1]])
            first = rpn_losses(objectness, deltas, for_rpn, config=rpn.loss)
            second = roi_losses(class_logits, box_deltas, mask_logits, for_heads, config=roi.loss)
            return sum((*first, *second)), (*first, *second)

        return jax.value_and_grad(total, has_aux=True)(state)

    (_, losses), gradient = run(state, images, windows, for_rpn, for_heads, class_boxes)
    named = checkpoint.named_parameters(nnx.merge(graph, gradient))
    return dict(zip(NAMES, map(float, losses), strict=True)), {k: np.asarray(v, np.float64) for k, v in named.items()}
