"""How weights are kept in the package: in half precision, and without notes on where they were written."""

from pathlib import Path

import jax.numpy as jnp

from maskrcnn_jax import checkpoint
from maskrcnn_jax.model import MaskRCNN


def save_for_package(model: MaskRCNN, out: Path) -> None:
    """Save a model as a checkpoint folder, in half the bytes.

    Raises:
        checkpoint.CheckpointError: `out` exists already, or cannot be written.
    """
    checkpoint.save(model, out, dtype=jnp.float16)
    for note in out.rglob("commit_success.txt"):
        note.unlink()  # Orbax's notes say nothing but where the folder was written
