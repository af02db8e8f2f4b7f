"""The weights that a training starts from: those of the package, which `tiny` and `small` take by default, random ones,
a checkpoint or run folder, or a file of COCO weights as Matterport, torchvision or Detectron2 published it.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from crystal.prediction.package_weights import NAMED
from crystal.training.config import TrainConfig, differences
from maskrcnn_jax import checkpoint, convert
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training.transfer import replace_classes

OF_THE_RUN = (
    "model.image.clahe",
    "model.image.zooms",
    "model.kernels",
    "model.backbone.scan_blocks",
)  # no shape depends on them


def starting_weights(init: str) -> Path | None:
    """What `--init` names; None for random weights."""
    return {"none": None, **NAMED}.get(init, Path(init))


def starting_config(path: Path) -> MaskRCNNConfig:
    """Architecture and conventions of weights. Raises `checkpoint.CheckpointError`."""
    return convert.load_config(path) if path.is_file() else checkpoint.load_config(path)


def _with_more_blocks(saved: MaskRCNN, config: MaskRCNNConfig, rngs: nnx.Rngs) -> dict[str, Any]:
    """The parameters of a model, and for the blocks of the backbone that it lacks, those of a new one: identities."""
    parameters, depths = checkpoint.named_parameters(saved), saved.config.backbone.depths
    last = f"norm{2 if config.backbone.block == 'basic' else 3}.scale"  # a branch of 0 makes a block the identity
    if all(more <= own for more, own in zip(config.backbone.depths, depths, strict=True)):
        return parameters
    block = re.compile(r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.")
    for name, array in checkpoint.named_parameters(MaskRCNN(config, rngs=rngs)).items():
        found = block.match(name)
        if found and int(found[2]) >= depths[int(found[1])]:
            parameters[name] = jnp.zeros_like(array) if name.endswith(last) else array
    return parameters


def starting_model(config: TrainConfig, path: Path | None) -> tuple[MaskRCNN, str]:
    """The model that a run starts with, and a line that says where its weights come from.

    Args:
        config: of the run; the model has its architecture.
        path: to the weights; None: random ones, drawn from the config's seed.

    Raises:
        checkpoint.CheckpointError: the weights do not fit the config, as when --set changes a shape.
    """
    rngs = nnx.Rngs(config.seed)
    if path is None:
        return MaskRCNN(config.model, rngs=rngs), "weights: random"
    saved, prefix = starting_config(path), ""
    as_saved = dataclasses.replace(config.model, classes=saved.classes)
    try:
        if path.is_file():
            converted = convert.read(path)
            parameters = checkpoint.named_parameters(converted.model)
            prefix = converted.origin.get("prefix", "")
            model = checkpoint.build(as_saved, parameters, name=str(path))
        else:
            parameters = _with_more_blocks(checkpoint.load(path), as_saved, rngs)
            model = checkpoint.build(as_saved, parameters, name=str(path))
    except checkpoint.ShapeError as error:
        changed = differences(saved.to_dict(), as_saved.to_dict(), "model")
        changed = [name for name in changed if name not in OF_THE_RUN]
        if not changed:
            raise
        raise checkpoint.CheckpointError(
            f"{path} belongs to another config: with {', '.join(changed)} changed, {len(error.wrong)} of its weights "
            f"have another shape (the first is {error.wrong[0]}); leave that --set out, or start from random weights "
            "(--init none)"
        ) from error
    model, note = replace_classes(model, config.model.classes, rngs=rngs)
    named = next((f"{name}, of the package" for name, of in NAMED.items() if of == path), str(path))
    return model, f"weights: {named}{f', without {prefix!r} before all names' if prefix else ''}; {note}"
