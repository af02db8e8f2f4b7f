"""A model and its config in one folder, saved and restored by Orbax.

The folder contains the parameters (`model`), the config as JSON (`config`) and, for converted weights, their `origin`.
A checkpoint of a training run (RUN/checkpoints/<step>, by `crystal train`) has further items and loads the same way.
Orbax writes under a temporary name and renames, so that an incomplete folder never has the final name.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from maskrcnn_jax import migration
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or of another config."""


class ShapeError(CheckpointError):
    """Parameters do not match the config; `wrong` lists them, one per line."""

    def __init__(self, name: str, wrong: list[str]) -> None:
        super().__init__(f"{name} does not match the config; these parameters differ:\n  " + "\n  ".join(wrong))
        self.wrong = wrong


def parameters_of(model: MaskRCNN) -> dict[str, Any]:
    """The parameters of a model.

    Returns:
        A nested dict of arrays.

    Raises:
        TypeError: the model has other variables (BatchNorm's statistics, the random state of Dropout): a training step
            would lose their updates, and a checkpoint their values.
    """
    parameters, others = nnx.split_state(nnx.state(model), nnx.Param, ...)
    if others:
        named = [f"{'.'.join(map(str, path))} ({type(value).__name__})" for path, value in nnx.to_flat_state(others)]
        raise TypeError(
            f"the model has variables that are not parameters: {', '.join(named[:4])}{', ...' if named[4:] else ''}; "
            "neither a training step nor a checkpoint keeps them: use layers without, such as GroupNorm"
        )
    return nnx.to_pure_dict(parameters)


def named_parameters(model: MaskRCNN) -> dict[str, Any]:
    """The same as a flat dict by dotted name, such as `backbone.stem.kernel`. Raises as `parameters_of`."""
    return _by_name(parameters_of(model))


def named_shapes(config: MaskRCNNConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the parameters of a model of `config`, by dotted name; nothing is initialised."""
    return _by_name(_structure(config)[1])


def build(config: MaskRCNNConfig, parameters: Mapping[str, Any], *, name: str) -> MaskRCNN:
    """A model with given parameters.

    Args:
        config: the model's.
        parameters: arrays by dotted name, as of `named_parameters`; converted to float32.
        name: what errors call them, such as the file they come from.

    Returns:
        The model.

    Raises:
        ShapeError: lists all parameters that are missing, unknown or of another shape.
    """
    graph, wanted = _structure(config)
    shapes = _by_name(wanted)
    wrong = [
        f"{key}: {_shape(parameters.get(key))} in the file, {_shape(shapes.get(key))} in the config"
        for key in sorted({*parameters, *shapes})
        if _shape(parameters.get(key)) != _shape(shapes.get(key))
    ]
    if wrong:
        raise ShapeError(name, wrong)
    return nnx.merge(graph, _fill(wanted, parameters))


class _OneKey(nnx.Rngs):
    """The same key each time: NNX's counting of keys dominates the time of tracing for shapes."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


@cache
def _structure(config: MaskRCNNConfig) -> tuple[nnx.GraphDef, Any]:
    """The graph definition of a model, and its parameters' shapes as a nested dict, which must not be modified."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: MaskRCNN(config, rngs=_OneKey(0))), nnx.Param)
    return graph, nnx.to_pure_dict(shapes)


def save(model: MaskRCNN, path: str | Path, *, dtype: Any = None, origin: Mapping[str, Any] | None = None) -> None:
    """Write a model's parameters and config. One of several processes may call this alone.

    Args:
        model: without variables other than parameters.
        path: the folder to make.
        dtype: of the parameters in the file; default: their own. float16 halves the size.
        origin: where the weights come from, in plain values; kept beside them.

    Raises:
        CheckpointError: `path` exists.
        TypeError: as `parameters_of`.
    """
    path = Path(path).absolute()
    if path.exists():
        raise CheckpointError(f"{path} exists already: remove it or choose another name")
    # As NumPy arrays: with several processes, Orbax does not write arrays on the devices of a single one.
    params = jax.tree.map(lambda p: np.asarray(p if dtype is None else p.astype(dtype)), parameters_of(model))
    items = {"model": ocp.args.StandardSave(params), "config": ocp.args.JsonSave(model.config.to_dict())}
    if origin is not None:
        items["origin"] = ocp.args.JsonSave(dict(origin))
    with _orbax() as writer:
        writer.save(path, args=ocp.args.Composite(**items))


def newest_step(run: str | Path) -> Path:
    """The newest complete checkpoint folder of a run.

    Args:
        run: the folder that `crystal train` writes.

    Returns:
        RUN/checkpoints/<step>.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(run) / "checkpoints"
    steps = [p for p in folder.glob("*") if p.name.isdigit() and (p / "model").is_dir()]
    if not steps:
        raise CheckpointError(f"no complete checkpoint in {folder}: train first (crystal train --out {run})")
    return max(steps, key=lambda p: int(p.name))


def load_config(path: str | Path) -> MaskRCNNConfig:
    """The config of a checkpoint, without its arrays.

    Args:
        path: as in `load`.

    Returns:
        The config; fields that were added since it was saved have their defaults.

    Raises:
        CheckpointError: there is no config, or it cannot be read.
    """
    return _read_config(path)[0]


def saved_fields(path: str | Path, part: str) -> set[str]:
    """Names of the fields that a checkpoint's config has of one part, "image" for one. Raises as `load_config`."""
    return set(_read_config(path)[1].get(part, ()))


def _read_config(path: str | Path) -> tuple[MaskRCNNConfig, dict[str, Any]]:
    path = _checkpoint_folder(path)
    try:
        values = json.loads((path / "config" / "metadata").read_text())
        return MaskRCNNConfig.from_dict(migration.grouped_config(values)), values
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its config cannot be read ({error}); use another checkpoint") from error


def load(path: str | Path, *, config: MaskRCNNConfig | None = None) -> MaskRCNN:
    """The model of a checkpoint.

    Args:
        path: a checkpoint folder, or a run folder, whose newest checkpoint is taken.
        config: replaces the one saved with the weights.

    Returns:
        The model, with parameters as float32.

    Raises:
        CheckpointError: there is none, it is damaged, or shapes differ from those of the config, which are listed.
            Errors of the system and of the device, which say nothing about the checkpoint, are raised as they are.
    """
    path = _checkpoint_folder(path)
    config = config or load_config(path)
    require_permission(path)
    try:
        saved = _read_arrays(path)
    except Exception as error:
        if not is_damage(error):
            raise
        raise CheckpointError(f"{path} is damaged or incomplete ({type(error).__name__}); use another one") from error
    return build(config, migration.renamed_parameters(_by_name(saved)), name=str(path))


def require_permission(path: Path) -> None:
    """Raise the system's error if it does not let us read a file below `path`: TensorStore's would look like damage."""
    for file in path.rglob("*"):
        if file.is_file():
            file.open("rb").close()


def is_damage(error: Exception) -> bool:
    """Whether an error on reading is about the checkpoint: what Orbax raises for files that are missing, cut short or
    hold something else; for some arrays a plain Exception. All others are the system's or the device's.
    """
    return isinstance(error, ValueError | KeyError | TypeError | FileNotFoundError) or type(error) is Exception


def _orbax(arrays: Iterable[str] = ("model",), plain: Iterable[str] = ("config", "origin")) -> ocp.Checkpointer:
    """Orbax for this process alone: it does not synchronise with other processes."""
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    items: Any = {item: ocp.JsonCheckpointHandler(multiprocessing_options=alone) for item in plain}
    items |= {item: ocp.StandardCheckpointHandler(multiprocessing_options=alone) for item in arrays}
    composite = ocp.CompositeOptions(multiprocessing_options=alone)
    handler = ocp.CompositeCheckpointHandler(composite_options=composite, **items)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def read_items(path: Path, arrays: Mapping[str, Any], plain: Iterable[str]) -> dict[str, Any]:
    """Items of a checkpoint folder, read by this process alone: arrays as NumPy's, since the devices that they were
    saved from may not exist here, and JSON values. Raises what Orbax raises, see `is_damage`.

    Args:
        path: the checkpoint folder.
        arrays: by item a tree of what has a shape and a dtype.
        plain: items of JSON.
    """
    wanted = {item: jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree) for item, tree in arrays.items()}
    items: dict[str, Any] = {item: ocp.args.StandardRestore(tree) for item, tree in wanted.items()}
    items |= {item: ocp.args.JsonRestore() for item in plain}
    with _orbax(arrays, plain) as reader:
        found = reader.restore(path, args=ocp.args.Composite(**items))
    return {item: found[item] for item in items}


def _read_arrays(path: Path) -> Any:
    """The saved parameters, NumPy arrays."""
    folder: Any = path / "model"  # Orbax's annotation wants its own path class; it accepts this one
    shapes = ocp.StandardCheckpointHandler().metadata(folder).tree
    return read_items(path, {"model": shapes}, ())["model"]


def _checkpoint_folder(path: str | Path) -> Path:
    path = Path(path).absolute()
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such folder")
    if (path / "checkpoints").is_dir():
        return newest_step(path)
    if not (path / "model").is_dir():
        raise CheckpointError(f"{path} is neither a run nor a checkpoint: it contains neither checkpoints/ nor model/")
    return path


def _by_name(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return None if leaf is None else tuple(leaf.shape)


def _fill(wanted: Any, parameters: Mapping[str, Any]) -> Any:
    def parameter(path: Any, _: Any) -> jax.Array:
        return jnp.asarray(parameters[jax.tree_util.keystr(path, simple=True, separator=".")], jnp.float32)

    return jax.tree_util.tree_map_with_path(parameter, wanted)
