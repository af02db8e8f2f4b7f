"""The weights that a training starts from: random ones, a checkpoint or run folder, the small weights that come with
the package ("shapes"), or a file of COCO weights as Matterport, torchvision or Detectron2 published it.
"""

import dataclasses
from pathlib import Path

from flax import nnx

from crystal.training.config import TrainConfig, differences
from maskrcnn_jax import checkpoint, convert
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training.transfer import replace_classes

OF_THE_RUN = ("model.image.clahe", "model.kernels", "model.backbone.scan_blocks")  # no shape depends on them
SHAPES = Path(__file__).parents[1] / "weights" / "shapes"  # made by `python -m crystal.weights.pretrain`


def _path(init: str) -> Path:
    return SHAPES if init == "shapes" else Path(init)


def starting_config(init: str) -> MaskRCNNConfig:
    """Architecture and conventions of the weights that `--init` names. Raises `checkpoint.CheckpointError`."""
    path = _path(init)
    return convert.load_config(path) if path.is_file() else checkpoint.load_config(path)


def starting_model(config: TrainConfig, init: str | None) -> tuple[MaskRCNN, str]:
    """The model that a run starts with, and a line that says where its weights come from.

    Args:
        config: of the run; the model has its architecture.
        init: as for `crystal train`; None: random weights, drawn from the config's seed.

    Raises:
        checkpoint.CheckpointError: the weights of `init` do not fit the config, as when --set changes a shape.
    """
    rngs = nnx.Rngs(config.seed)
    if init is None:
        return MaskRCNN(config.model, rngs=rngs), "weights: random"
    path, saved, prefix = _path(init), starting_config(init), ""
    as_saved = dataclasses.replace(config.model, classes=saved.classes)
    try:
        if path.is_file():
            converted = convert.read(path)
            parameters = checkpoint.named_parameters(converted.model)
            prefix = converted.origin.get("prefix", "")
            model = checkpoint.build(as_saved, parameters, name=str(path))
        else:
            model = checkpoint.load(path, config=as_saved)
    except checkpoint.ShapeError as error:
        changed = differences(saved.to_dict(), as_saved.to_dict(), "model")
        changed = [name for name in changed if name not in OF_THE_RUN]
        if not changed:
            raise
        raise checkpoint.CheckpointError(
            f"{path} belongs to another config: with {', '.join(changed)} changed, {len(error.wrong)} of its weights "
            f"have another shape (the first is {error.wrong[0]}); leave that --set out, or start without --init"
        ) from error
    model, note = replace_classes(model, config.model.classes, rngs=rngs)
    named = "those of the package" if path == SHAPES else str(path)
    return model, f"weights: {named}{f', without {prefix!r} before all names' if prefix else ''}; {note}"
