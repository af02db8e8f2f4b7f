"""A trained model. Its config says all that is needed to use it rightly: classes, image size, CLAHE or not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from crystal.errors import RunError
from maskrcnn_jax import checkpoint
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN


def read_json(path: Path) -> dict[str, Any]:
    """RUN/config.json. Raises RunError if it cannot be read."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}); the folder is no run of crystal train, or is damaged"
        ) from error
    return values


def for_this_machine(config: MaskRCNNConfig, *, platform: str | None = None) -> MaskRCNNConfig:
    """The config as crystal computes it, whatever the weights were saved with: the one place where the device chooses.

    `kernels` are those of `maskrcnn_jax/kernels` for the device. On CPUs a stage's equal blocks run as one loop, which
    compiles faster; on GPUs it would copy all that the gradient needs.

    Args:
        config: of the network.
        platform: "cpu", "gpu" or another of JAX's; default: that of JAX's default device.
    """
    platform = platform or jax.default_backend()
    backbone = dataclasses.replace(config.backbone, scan_blocks=platform == "cpu")
    return dataclasses.replace(config, backbone=backbone, kernels=platform if platform in ("cpu", "gpu") else "xla")


def load_run(run: str | Path) -> MaskRCNN:
    """The model of a checkpoint folder, or the newest one of a run folder.

    Raises:
        RunError: a run of version 0.1, which noted in config.json alone whether there is CLAHE, has a damaged one.
        maskrcnn_jax.checkpoint.CheckpointError: there are no weights that can be used.
    """
    config = checkpoint.load_config(run)
    if "clahe" not in checkpoint.saved_fields(run, "image") and _clahe_of_old_run(Path(run).resolve()):
        config = dataclasses.replace(config, image=dataclasses.replace(config.image, clahe=True))
    return checkpoint.load(run, config=for_this_machine(config))


def _clahe_of_old_run(path: Path) -> bool:
    """Whether a run, or the run that a checkpoint belongs to, was trained on images after CLAHE, by its config.json."""
    for folder in (path, path.parent.parent):
        if (folder / "config.json").exists() and (folder / "checkpoints").is_dir():
            settings = read_json(folder / "config.json").get("train")
            return isinstance(settings, dict) and settings.get("clahe") is True
    return False
