"""A trained model, and what is needed to use it rightly: whether its images went through CLAHE."""

import json
from pathlib import Path
from typing import Any

from crystal.errors import RunError
from maskrcnn_jax import checkpoint
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


def load_run(run: str | Path) -> tuple[MaskRCNN, bool]:
    """The newest model of a run folder (or a plain checkpoint folder), and whether it was trained after CLAHE.

    A plain checkpoint says nothing of CLAHE: then False.

    Raises:
        RunError: config.json cannot be read.
        maskrcnn_jax.checkpoint.CheckpointError: there are no weights that can be used.
    """
    path = Path(run) / "config.json"
    settings = read_json(path).get("train") if path.exists() else {"clahe": False}
    if not isinstance(settings, dict) or not isinstance(settings.get("clahe"), bool):
        raise RunError(f"{path}: not the config of a training run; train anew with this version")
    return checkpoint.load(run), settings["clahe"]
