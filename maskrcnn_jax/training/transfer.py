"""Fine-tuning to other classes: what depends on the classes starts anew, everything else is kept.

Mask R-CNN's class-specific parameters are the last layers of box and mask head; backbone, FPN, RPN (objectness is
class-agnostic) and the heads' hidden layers carry over (Crystals 2021, section 2.2: COCO weights to crystals).
"""

import dataclasses

from flax import nnx

from maskrcnn_jax.model import MaskRCNN


def replace_classes(model: MaskRCNN, classes: tuple[tuple[int, str], ...], *, rngs: nnx.Rngs) -> tuple[MaskRCNN, str]:
    """A model for `classes` (background first), and one line that says what was kept.

    With the number of classes unchanged, all weights are kept; otherwise the class-specific outputs are fresh.
    """
    config = dataclasses.replace(model.config, classes=tuple(classes))
    if config.num_classes == model.config.num_classes:
        renamed = nnx.clone(model)
        renamed.config = config
        return renamed, f"all weights kept; classes are now {', '.join(name for _, name in classes)}"
    fresh = MaskRCNN(config, rngs=rngs)
    fresh.backbone, fresh.fpn, fresh.rpn = model.backbone, model.fpn, model.rpn
    for layer in ("first", "second"):
        setattr(fresh.box_head, layer, getattr(model.box_head, layer))
    for layer in ("convs", "double"):
        setattr(fresh.mask_head, layer, getattr(model.mask_head, layer))
    return fresh, (
        f"class outputs of box and mask head start anew ({model.config.num_classes} -> {config.num_classes} classes); "
        "backbone, FPN, RPN and hidden layers are kept"
    )
