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


def _by_class(array: Array, classes: int) -> Array:
    """The last axis, which holds one or more numbers for each class, as two."""
    return array.reshape(*array.shape[:-1], classes, -1)


def replace_classes(model: MaskRCNN, classes: tuple[tuple[int, str], ...], *, rngs: nnx.Rngs) -> tuple[MaskRCNN, str]:
    """A model for other classes.

    If the number of classes stays the same, all weights are kept, and those of a class follow its name to its new
    place; the weights of names that are gone go to the new names in order. Otherwise the class-specific layers are
    initialised, but for the background and classes of the same name where there is such a class, and all others kept.

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
    old, new = ([name for _, name in c.classes] for c in (model.config, config))
    parameters = named_parameters(model)
    own = {name: _by_class(array, len(old)) for name, array in parameters.items() if name.startswith(class_specific)}
    if len(old) == len(new):
        order = jnp.array(_order(old, new))
        parameters |= {name: array[..., order, :].reshape(parameters[name].shape) for name, array in own.items()}
        renamed = build(config, parameters, name="the model")
        return renamed, f"all weights kept; classes are now {', '.join(new)}"

    def outputs(key: PRNGKeyArray) -> dict[str, Array]:
        initial = named_parameters(MaskRCNN(config, rngs=nnx.Rngs(params=key)))
        return {name: initial[name] for name in initial if name.startswith(class_specific)}

    # Under jit only the returned parameters are initialised.
    initial = jax.jit(outputs)(rngs.params())
    shared = [name for name in new[1:] if name in old]
    if shared:
        here, there = (jnp.array([0, *(names.index(name) for name in shared)]) for names in (new, old))
        for name, array in initial.items():
            by_class = _by_class(array, len(new)).at[..., here, :].set(own[name][..., there, :])
            initial[name] = by_class.reshape(array.shape)
    kept = f" but for {', '.join(shared)}" if shared else ""
    return build(config, parameters | initial, name="the model"), (
        f"class outputs of box and mask head are new{kept} ({len(old)} -> {len(new)} classes); "
        "backbone, FPN, RPN and hidden layers are kept"
    )
