"""A weight file of Matterport, torchvision or Detectron2 as a `MaskRCNN`.

The format is recognised by the file's content, not its name: HDF5 is Matterport's; a PyTorch archive or a pickle is
torchvision's or Detectron2's by the names of its arrays.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from maskrcnn_jax import checkpoint
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.convert import detectron2, matterport, pickles, torch_archive, torchvision
from maskrcnn_jax.convert.pickles import Entry, PickleError
from maskrcnn_jax.convert.table import ConversionError, Rule, convert
from maskrcnn_jax.model import MaskRCNN

SOURCES = "Matterport's mask_rcnn_coco.h5, torchvision's Mask R-CNN v1 or Detectron2's mask_rcnn_R_101_FPN_3x"

PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "detector.")


class Source(NamedTuple):
    """An open weight file: its origin, its arrays and how to convert them."""

    name: str
    entries: dict[str, Entry]
    config: MaskRCNNConfig
    rules: Callable[..., list[Rule]]
    ignored: Mapping[str, str]
    norm_epsilon: float  # default
    prefix: str  # of all names in the file, which was removed


class Converted(NamedTuple):
    """A converted model; `origin` describes the weight file, for the checkpoint."""

    model: MaskRCNN
    origin: dict[str, Any]


def load(path: str | Path, *, norm_epsilon: float | None = None) -> MaskRCNN:
    """The model of a weight file that Matterport, torchvision or Detectron2 published, or that was trained with them.

    Args:
        path: the file; its content tells which of the three wrote it.
        norm_epsilon: epsilon of the batch norms that are folded into scales and shifts. Default: 1e-3 for Matterport,
            1e-5 for Detectron2, and for torchvision, whose files do not say, 0 with the array names of 2019, else 1e-5.

    Returns:
        A network with the architecture, the classes and the conventions of the file; parameters as float32.

    Raises:
        ConversionError: a `maskrcnn_jax.checkpoint.CheckpointError` that lists everything that does not fit.
    """
    return read(path, norm_epsilon=norm_epsilon).model


def load_config(path: str | Path) -> MaskRCNNConfig:
    """The config of the model that `load` returns, without converting the arrays.

    Args:
        path: as in `load`.

    Returns:
        Architecture, classes and conventions.

    Raises:
        ConversionError: the file is of none of the three projects.
    """
    with open_source(Path(path)) as source:
        return source.config


def read(path: str | Path, *, norm_epsilon: float | None = None) -> Converted:
    """Like `load`, with what the file is.

    Args:
        path: as in `load`.
        norm_epsilon: as in `load`.

    Returns:
        The model, and its origin in plain values: project, file, checksum, epsilon, numbers of arrays and parameters.

    Raises:
        ConversionError: as in `load`.
    """
    path = Path(path)
    with open_source(path) as source, _errors_with_path(path):
        epsilon = source.norm_epsilon if norm_epsilon is None else norm_epsilon
        if not 0 <= epsilon < 1:
            raise ConversionError(f"norm epsilon {epsilon} is not in [0, 1); the three sources use 0 to 1e-3")
        wanted = {name: tuple(p.shape) for name, p in checkpoint.named_shapes(source.config).items()}
        rules = source.rules(wanted, source.config.backbone.depths, epsilon=epsilon)
        parameters = convert(source.entries, rules, wanted, source.ignored)
        origin = {
            "source": source.name,
            "file": path.name,
            "sha256": _sha256(path),
            "norm_epsilon": epsilon,
            "arrays": len(source.entries),
            "parameters": sum(p.size for p in parameters.values()),
        }
        if source.prefix:
            origin["prefix"] = source.prefix
        return Converted(checkpoint.build(source.config, parameters, name=str(path)), origin)


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a weight file and recognise its format. Raises ConversionError."""
    with _errors_with_path(path), _entries(path) as entries:
        prefix, entries = _without_prefix(entries)
        if matterport.is_matterport(entries):
            source = ("Matterport Mask R-CNN", matterport, matterport.EPSILON)
        elif detectron2.is_detectron2(entries):
            source = ("Detectron2 Mask R-CNN", detectron2, detectron2.EPSILON)
        elif torchvision.is_torchvision(entries):
            epsilon = torchvision.EPSILON_2019 if torchvision.has_old_names(entries) else torchvision.EPSILON
            source = ("torchvision Mask R-CNN", torchvision, epsilon)
            entries = torchvision.with_current_names(entries)
        else:
            some = ", ".join(list(entries)[:3])
            raise ConversionError(f"its {len(entries)} arrays ({some}, ...) are of another model, not of {SOURCES}")
        name, module, epsilon = source
        yield Source(name, entries, module.config(entries), module.rules, module.IGNORED, epsilon, prefix)


def _without_prefix(entries: dict[str, Entry]) -> tuple[str, dict[str, Entry]]:
    """What wrappers (DataParallel, Lightning, torch.compile) put before all names, and the arrays without it."""
    removed = ""
    while found := next((p for p in PREFIXES if entries and all(name.startswith(p) for name in entries)), ""):
        removed += found
        entries = {name.removeprefix(found): entry for name, entry in entries.items()}
    return removed, entries


@contextmanager
def _entries(path: Path) -> Iterator[dict[str, Entry]]:
    if not path.is_file():
        raise ConversionError("there is no such file")
    with path.open("rb") as file:
        start = file.read(16)
        file.seek(0)
        if start.startswith(matterport.HDF5_START):
            with matterport.open_h5(path) as entries:
                yield entries
        elif start.startswith(torch_archive.ZIP_START):
            with torch_archive.open_zip(path) as entries:
                yield entries
        elif start.startswith(torch_archive.LEGACY_START):
            with torch_archive.open_legacy(path) as entries:
                yield entries
        elif start.startswith(b"\x80"):
            yield pickles.arrays(pickles.load(file))
        else:
            raise ConversionError(f"neither HDF5 nor a PyTorch archive nor a pickle; supported are {SOURCES}")


@contextmanager
def _errors_with_path(path: Path) -> Iterator[None]:
    """Prefix errors with the file's path."""
    try:
        yield
    except (ConversionError, PickleError, OSError) as error:
        text = str(error)
        raise ConversionError(text if text.startswith(f"{path}:") else f"{path}: {text}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
