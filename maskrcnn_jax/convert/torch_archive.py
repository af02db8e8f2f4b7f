"""Tensors of a PyTorch file, read without PyTorch: zip archives, and the legacy format of versions before 1.6.

    zip      <name>/data.pkl, a pickle whose tensors refer to storages; <name>/data/<key>, their numbers, uncompressed
    legacy   four pickles (magic number, version, machine, the object), a pickled list of keys, then for each key the
             number of elements (int64) and the elements

Only arrays are read, see `pickles.py`.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_jax.convert import pickles
from maskrcnn_jax.convert.pickles import Entry, PickleError, Storage

ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\n" + LEGACY_MAGIC.to_bytes(10, "little")  # the number in pickle protocol 2
LEGACY_VERSION = 1001


@contextmanager
def _as_pickle_errors() -> Iterator[None]:
    """Turn what `zipfile` raises into a PickleError."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise PickleError(f"the archive is truncated or damaged ({error})") from error


@contextmanager
def open_zip(path: Path) -> Iterator[dict[str, Entry]]:
    """The named tensors of a zip archive. Raises PickleError."""
    with ExitStack() as stack:
        with _as_pickle_errors():
            archive = stack.enter_context(zipfile.ZipFile(path))
            index = {info.filename: info for info in archive.infolist()}
            roots = [name.removesuffix("data.pkl") for name in index if name.split("/")[1:] == ["data.pkl"]]
            if "model.weights.h5" in index:
                raise PickleError("a model of Keras 3 (.keras); only weights of PyTorch come in zip archives")
            if len(roots) != 1:
                raise PickleError("a zip archive, but not PyTorch's (no data.pkl in it)")
            root = roots[0]
            if f"{root}byteorder" in index and archive.read(f"{root}byteorder") != b"little":
                raise PickleError("written on a big-endian machine; save it again on a little-endian one")
            program = index[f"{root}data.pkl"]
            if program.file_size > max(os.path.getsize(path), 1) * 10:
                raise PickleError("its pickle expands to more than ten times the file")
            content = archive.read(program)

        def storage(wanted: Storage) -> np.ndarray:
            info = index.get(f"{root}data/{wanted.key}")
            size = wanted.size * _dtype(wanted).itemsize
            # Compressed members could expand to any size; PyTorch does not compress.
            if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size < size:
                raise PickleError(f"storage {wanted.key} is missing, truncated or compressed")
            with _as_pickle_errors():
                return np.frombuffer(archive.read(info), _dtype(wanted), wanted.size)

        yield pickles.arrays(pickles.loads(content, storage))


@contextmanager
def open_legacy(path: Path) -> Iterator[dict[str, Entry]]:
    """The named tensors of a file in the legacy format. Raises PickleError."""
    places: dict[str, int] = {}

    def storage(wanted: Storage) -> np.ndarray:
        if wanted.key not in places:
            raise PickleError(f"storage {wanted.key} is missing")
        return np.memmap(path, _dtype(wanted), "r", places[wanted.key], (wanted.size,))

    with path.open("rb") as file:
        magic, version, machine = (pickles.load(file) for _ in range(3))
        if magic != LEGACY_MAGIC or version != LEGACY_VERSION:
            raise PickleError(f"unknown version {version!r:.20} of PyTorch's format; save it with a current PyTorch")
        if not machine.get("little_endian", True):
            raise PickleError("written on a big-endian machine; save it again on a little-endian one")
        storages: dict[str, Storage] = {}
        content = pickles.load(file, storage, storages)
        places |= _find_storages(file, pickles.load(file), storages)
        yield pickles.arrays(content)


def _find_storages(file: io.BufferedReader, keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    """Byte offset of each storage's elements."""
    end, places = os.fstat(file.fileno()).st_size, {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        if key not in storages or count != storages[key].size:
            raise PickleError(f"storage {key!r:.20} differs in size from what its tensors need; the file is damaged")
        places[key] = file.tell()
        if file.seek(count * _dtype(storages[key]).itemsize, os.SEEK_CUR) > end:
            raise PickleError("the file is truncated; download it again")
    return places


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype("u2" if storage.kind == "bf16" else storage.kind)
