"""A model and its config in one folder, saved and restored by Orbax.

The folder holds two items: `model`, the parameters, and `config`, JSON. A step of a training run
(`crystal train` writes RUN/checkpoints/<step>) is such a folder with more items beside, so both load alike. Orbax
writes to a temporary name and renames, so that a half-written folder never has the final name.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another config."""


def save(model: MaskRCNN, path: str | Path, *, dtype: Any = None) -> None:
    """Write parameters and config to the new folder `path`. `dtype` (float16, say) halves the size of what is shipped.

    Raises CheckpointError if something is there already.
    """
    path = Path(path).absolute()
    if path.exists():
        raise CheckpointError(f"{path} exists already: remove it or choose another name")
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    if dtype is not None:
        params = jax.tree.map(lambda p: p.astype(dtype), params)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(
            path,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(params), config=ocp.args.JsonSave(model.config.to_dict())
            ),
        )


def newest_step(run: str | Path) -> Path:
    """The newest finished checkpoint folder RUN/checkpoints/<step>. Raises CheckpointError if there is none."""
    folder = Path(run) / "checkpoints"
    steps = [p for p in folder.glob("*") if p.name.isdigit() and (p / "model").is_dir()]
    if not steps:
        raise CheckpointError(f"no finished checkpoint in {folder}: train first (crystal train --out {run})")
    return max(steps, key=lambda p: int(p.name))


def load_config(path: str | Path) -> MaskRCNNConfig:
    """The config of a checkpoint folder."""
    path = _checkpoint_folder(path)
    try:
        return MaskRCNNConfig.from_dict(json.loads((path / "config" / "metadata").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its config cannot be read ({error}); write the checkpoint anew") from error


def load(path: str | Path, *, config: MaskRCNNConfig | None = None) -> MaskRCNN:
    """The model of a checkpoint folder, or of the newest checkpoint of a run folder; parameters as float32.

    With `config`, the weights must fit that config, not the one saved with them. Raises CheckpointError with every
    parameter whose shape differs.
    """
    path = _checkpoint_folder(path)
    config = config or load_config(path)
    # Shapes alone: random initial values would be thrown away at once.
    skeleton = nnx.eval_shape(lambda: MaskRCNN(config, rngs=nnx.Rngs(0)))
    graph, wanted = nnx.split(skeleton, nnx.Param)
    wanted = nnx.to_pure_dict(wanted)
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            saved = reader.restore(path, args=ocp.args.Composite(model=ocp.args.StandardRestore()))["model"]
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise CheckpointError(f"{path} is damaged or incomplete ({type(error).__name__}); use another one") from error

    saved_by_name, wanted_by_name = _by_name(saved), _by_name(wanted)
    wrong = [
        f"{name}: {_shape(saved_by_name.get(name))} in the file, {_shape(wanted_by_name.get(name))} in the config"
        for name in sorted({*saved_by_name, *wanted_by_name})
        if _shape(saved_by_name.get(name)) != _shape(wanted_by_name.get(name))
    ]
    if wrong:
        raise CheckpointError(f"{path} belongs to another config; these parameters differ:\n  " + "\n  ".join(wrong))
    return nnx.merge(graph, _fill(wanted, saved_by_name))


def _checkpoint_folder(path: str | Path) -> Path:
    path = Path(path).absolute()
    if not path.is_dir():
        raise CheckpointError(f"{path} is no checkpoint folder: there is no such folder")
    if (path / "checkpoints").is_dir():
        return newest_step(path)
    if not (path / "model").is_dir():
        raise CheckpointError(f"{path} is no checkpoint: it holds neither checkpoints/ nor model/")
    return path


def _by_name(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return None if leaf is None else tuple(leaf.shape)


def _fill(wanted: Any, saved: dict[str, Any]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(saved[jax.tree_util.keystr(path, simple=True, separator=".")], jnp.float32), wanted
    )
