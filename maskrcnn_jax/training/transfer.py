"""Fine-tuning to other classes: what depends on the classes starts anew, everything else is kept.

Mask R-CNN's class-specific parameters are the last layers of box and mask head; backbone, FPN, RPN (objectness is
class-agnostic) and the heads' hidden layers carry over (Crystals 2021, section 2.2: COCO weights to crystals).
"""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, PRNGKeyArray

from maskrcnn_jax.checkpoint import build, named_parameters
from maskrcnn_jax.model import MaskRCNN

CLASS_SPECIFIC = ("box_head.classes.", "box_head.deltas.", "mask_head.masks.")


def replace_classes(model: MaskRCNN, classes: tuple[tuple[int, str], ...], *, rngs: nnx.Rngs) -> tuple[MaskRCNN, str]:
    """A model for `classes` (background first), and one line that says what was kept.

    With the number of classes unchanged, all weights are kept; otherwise the class-specific outputs are fresh.
    """
    config = dataclasses.replace(model.config, classes=tuple(classes))
    if config.num_classes == model.config.num_classes:
        renamed = nnx.clone(model)
        renamed.config = config
        return renamed, f"all weights kept; classes are now {', '.join(name for _, name in classes)}"

    def outputs(key: PRNGKeyArray) -> dict[str, Array]:
        whole = named_parameters(MaskRCNN(config, rngs=nnx.Rngs(params=key)))
        return {name: whole[name] for name in whole if name.startswith(CLASS_SPECIFIC)}

    # Compiled, so that only what is returned is initialised: 4 s instead of 23 s for a ResNet101 on 2 CPU cores.
    parameters = named_parameters(model) | jax.jit(outputs)(rngs.params())
    return build(config, parameters, name="the model"), (
        f"class outputs of box and mask head start anew ({model.config.num_classes} -> {config.num_classes} classes); "
        "backbone, FPN, RPN and hidden layers are kept"
    )
