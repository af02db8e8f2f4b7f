"""Tensors out of a PyTorch file, without PyTorch: the zip of today and the stacked pickles of before version 1.6.

    zip       <name>/data.pkl, a pickle whose tensors name their storages; <name>/data/<key>, the numbers, uncompressed
    stacked   four pickles (magic number, version, machine, the object), a pickled list of keys, then for each key the
              count (int64) and the numbers

Only arrays come out, see `pickles.py`.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_jax.convert import pickles
from maskrcnn_jax.convert.pickles import Entry, PickleError, Storage

ZIP_START = b"PK\x03\x04"
STACKED_MAGIC = 0x1950A86A20F9469CFC6C
STACKED_START = b"\x80\x02\x8a\n" + STACKED_MAGIC.to_bytes(10, "little")  # as pickle's protocol 2 writes the number
STACKED_VERSION = 1001


@contextmanager
def open_zip(path: Path) -> Iterator[dict[str, Entry]]:
    """The named tensors of a zip archive. Raises PickleError."""
    try:
        with zipfile.ZipFile(path) as archive:
            index = {info.filename: info for info in archive.infolist()}
            roots = [name.removesuffix("data.pkl") for name in index if name.split("/")[1:] == ["data.pkl"]]
            if len(roots) != 1:
                raise PickleError("a zip archive, but not one of PyTorch's (no data.pkl in it)")
            root = roots[0]
            if f"{root}byteorder" in index and archive.read(f"{root}byteorder") != b"little":
                raise PickleError("written on a big-endian machine; save it anew on a little-endian one")

            def storage(wanted: Storage) -> np.ndarray:
                info = index.get(f"{root}data/{wanted.key}")
                size = wanted.size * _dtype(wanted).itemsize
                # Compressed members could unpack to any size; PyTorch never compresses.
                if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size < size:
                    raise PickleError(f"the numbers of storage {wanted.key} are missing, cut short or compressed")
                return np.frombuffer(archive.read(info), _dtype(wanted), wanted.size)

            program = index[f"{root}data.pkl"]
            if program.file_size > max(os.path.getsize(path), 1) * 10:
                raise PickleError("its pickle unpacks to far more than the whole file")
            yield pickles.arrays(pickles.loads(archive.read(program), storage))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise PickleError(f"the archive is cut short or damaged ({error})") from error


@contextmanager
def open_stacked(path: Path) -> Iterator[dict[str, Entry]]:
    """The named tensors of a file of stacked pickles. Raises PickleError."""
    places: dict[str, int] = {}

    def storage(wanted: Storage) -> np.ndarray:
        if wanted.key not in places:
            raise PickleError(f"the numbers of storage {wanted.key} are missing")
        return np.memmap(path, _dtype(wanted), "r", places[wanted.key], (wanted.size,))

    with path.open("rb") as file:
        magic, version, machine = (pickles.load(file) for _ in range(3))
        if magic != STACKED_MAGIC or version != STACKED_VERSION:
            raise PickleError(f"PyTorch's format {version!r:.20} is not known; save the file anew with a current one")
        if not machine.get("little_endian", True):
            raise PickleError("written on a big-endian machine; save it anew on a little-endian one")
        seen: dict[str, Storage] = {}
        content = pickles.load(file, storage, seen)
        places |= _find_storages(file, pickles.load(file), seen)
        yield pickles.arrays(content)


def _find_storages(file: io.BufferedReader, keys: Any, seen: dict[str, Storage]) -> dict[str, int]:
    """Where each storage's numbers begin."""
    end, places = os.fstat(file.fileno()).st_size, {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        if key not in seen or count != seen[key].size:
            raise PickleError(f"storage {key!r:.20} is not the size that its tensors say; the file is damaged")
        places[key] = file.tell()
        if file.seek(count * _dtype(seen[key]).itemsize, os.SEEK_CUR) > end:
            raise PickleError("the file is cut short; download it again")
    return places


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype("u2" if storage.kind == "bf16" else storage.kind)
