"""Fine-tuning to other classes: class-specific layers are initialised anew, all other weights are kept.

The class-specific layers are the last ones of box and mask head; backbone, FPN, RPN (objectness is class-agnostic) and
the heads' hidden layers are transferred (Crystals 2021, section 2.2: from COCO to crystals).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PRNGKeyArray

from maskrcnn_jax.checkpoint import build, named_parameters
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN


def _class_specific(config: MaskRCNNConfig) -> tuple[str, ...]:
    """How the names of the class-specific parameters begin."""
    deltas = () if config.roi.box_head.class_agnostic else ("box_head.deltas.",)
    return ("box_head.classes.", "mask_head.masks.", *deltas)


def _order(old: list[str], new: list[str]) -> list[int]:
    """For each new name the index of the old class whose weights it gets: that of the same name, or one that is left.

    >>> _order(["background", "crystal", "loop"], ["background", "loop", "salt"])
    [0, 2, 1]
    """
    left = [index for index, name in enumerate(old) if name not in new or old.index(name) != index]
    return [old.index(name) if name in old and new.index(name) == k else left.pop(0) for k, name in enumerate(new)]


def replace_classes(model: MaskRCNN, classes: tuple[tuple[int, str], ...], *, rngs: nnx.Rngs) -> tuple[MaskRCNN, str]:
    """A model for other classes.

    If the number of classes stays the same, all weights are kept, and those of a class follow its name to its new
    place; the weights of names that are gone go to the new names in order. Otherwise the class-specific layers are
    initialised and all others kept.

    Args:
        model: is not changed.
        classes: (id in COCO files, name) of each class, background first.
        rngs: for the layers that are initialised.

    Returns:
        The model, and a sentence for the user about what was kept.

    Raises:
        TypeError: the model has variables that are not parameters.

    The tiny network, which has two classes, with three; `eval_shape` computes shapes without weights:

    >>> three = ((0, "background"), (1, "crystal"), (2, "drop"))
    >>> def fine_tuned():
    ...     model = MaskRCNN(MaskRCNNConfig.tiny(), rngs=nnx.Rngs(0))
    ...     return replace_classes(model, three, rngs=nnx.Rngs(1))[0]
    >>> nnx.eval_shape(fine_tuned).box_head.classes.kernel.shape
    (128, 3)
    """
    config = dataclasses.replace(model.config, classes=tuple(classes))
    class_specific = _class_specific(config)
    if config.num_classes == model.config.num_classes:
        order = _order([name for _, name in model.config.classes], [name for _, name in classes])
        parameters = named_parameters(model)
        for name, array in parameters.items():
            if name.startswith(class_specific):
                by_class = array.reshape(*array.shape[:-1], len(order), -1)
                parameters[name] = by_class[..., jnp.array(order), :].reshape(array.shape)
        renamed = build(config, parameters, name="the model")
        return renamed, f"all weights kept; classes are now {', '.join(name for _, name in classes)}"

    def outputs(key: PRNGKeyArray) -> dict[str, Array]:
        initial = named_parameters(MaskRCNN(config, rngs=nnx.Rngs(params=key)))
        return {name: initial[name] for name in initial if name.startswith(class_specific)}

    # Under jit only the returned parameters are initialised.
    parameters = named_parameters(model) | jax.jit(outputs)(rngs.params())
    return build(config, parameters, name="the model"), (
        f"class outputs of box and mask head are new ({model.config.num_classes} -> {config.num_classes} classes); "
        "backbone, FPN, RPN and hidden layers are kept"
    )
