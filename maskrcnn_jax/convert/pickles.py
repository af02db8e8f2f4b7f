"""Arrays of an untrusted pickle: no code of the pickle's choice is run.

A pickle is a program: `GLOBAL os.system, REDUCE` runs a command on loading. Weights need only a dozen names (NumPy's
array and dtype, PyTorch's tensor and storage, the ordered dictionary). All other names are refused, and these map to
plain records of this module: neither NumPy nor PyTorch builds anything. The opcodes are checked once before they are
run, so that truncated files, opcodes that weights do not need, and huge memos are refused as well.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

File = io.BytesIO | io.BufferedReader


class PickleError(ValueError):
    """A pickle is damaged, or contains anything but arrays."""


class Entry(NamedTuple):
    """An array in a file: its shape, and `read`, which loads it in its stored dtype."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Storage(NamedTuple):
    """A storage of a PyTorch file: `size` elements of dtype `kind` outside the pickle, under `key`."""

    key: str
    kind: str
    size: int


# Opcodes that weights need; all others (INST, OBJ, EXT, PERSID, ...) are refused.
# fmt: off
OPCODES = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "EMPTY_DICT",
    "EMPTY_LIST", "EMPTY_TUPLE", "DICT", "LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS",
    "APPEND", "APPENDS", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES",
    "BINBYTES8", "BYTEARRAY8", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BINPERSID",
))
# fmt: on
NUMPY_KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
TORCH_KINDS = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}


def load(
    file: File,
    storage: Callable[[Storage], np.ndarray] | None = None,
    storages: dict[str, Storage] | None = None,
) -> Any:
    """The object of the pickle at the file's position, which moves to the pickle's end. Arrays and tensors become
    `Entry`s.

    `storage` reads a PyTorch storage as a flat array of its dtype (bfloat16 as uint16); `storages` is filled with the
    storages that the pickle refers to, by key.

    Raises PickleError.
    """
    start = file.tell()
    _check_opcodes(file)
    end = file.tell()
    file.seek(start)
    try:
        value = _Unpickler(file, storage, {} if storages is None else storages).load()
    except PickleError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise PickleError(f"a damaged pickle ({type(error).__name__}: {error})") from error
    file.seek(end)
    return value


def _check_opcodes(file: File) -> None:
    """Check the opcodes up to STOP without running them."""
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name not in OPCODES:
                raise PickleError(f"the pickle uses {opcode.name}, which weights do not need")
            # The memo is an array as long as its largest index.
            if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > number:
                raise PickleError("a damaged pickle (its memo is larger than the pickle)")
    except PickleError:
        raise
    except (ValueError, IndexError, OverflowError, MemoryError, UnicodeError) as error:
        raise PickleError(f"the file is truncated or damaged ({error})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: File, storage: Callable[[Storage], np.ndarray] | None, storages: dict) -> None:
        super().__init__(file, encoding="latin1")  # for bytes written by Python 2
        self.storage, self.storages = storage, storages

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        if module == "torch" and name in TORCH_KINDS:
            return TORCH_KINDS[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _Call(self._tensor)
        raise PickleError(
            f"the pickle asks for {module}.{name}, which weights do not need; nothing was run; "
            "save the model's state_dict alone"
        )

    def persistent_load(self, pid: Any, /) -> Storage:
        kind, key, count = pid[1], pid[2], pid[4]
        if pid[0] != "storage" or kind not in TORCH_KINDS.values() or any(p is not None for p in pid[5:]):
            raise PickleError(f"an unknown kind of storage: {pid!r:.80}")
        return self.storages.setdefault(str(key), Storage(str(key), kind, int(count)))

    def _tensor(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Entry:
        """PyTorch's tensor: an offset, sizes and strides, in elements, over a storage."""
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        empty = 0 in size
        if (
            not isinstance(storage, Storage)
            or min((offset, *size, *stride)) < 0
            or (not empty and last >= storage.size)
        ):
            raise PickleError(f"a tensor of size {size} that extends beyond its {storage!r:.60}")

        def read() -> np.ndarray:
            if self.storage is None:
                raise PickleError("a tensor, but not in a PyTorch file")
            numbers = self.storage(storage)
            if empty:
                return np.zeros(size, numbers.dtype)
            steps = tuple(s * numbers.itemsize for s in stride)
            view = np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False)
            return bfloat16_to_float32(view) if storage.kind == "bf16" else view

        return Entry(size, read)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 numbers, as uint16, to float32.

    >>> bfloat16_to_float32(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


class _Call:
    """A function that a pickle may only call (BUILD could otherwise set attributes of it)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise PickleError("the pickle tries to change a function")


class _Dtype:
    """Replaces `numpy.dtype`: a kind and a byte order, without structures and objects."""

    def __init__(self, kind: str, *_: Any):
        kind = kind.lstrip("<=|")
        if kind not in NUMPY_KINDS:
            raise PickleError(f"an array of dtype {kind!r:.40}, where numbers are expected")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "=", "|"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array(dict):
    """Replaces a NumPy array while its pickle is loaded; `arrays` takes its `Entry`.

    A dict, always empty, because NamedTuples cannot be set by `__setstate__`.
    """

    entry: Entry | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, raw = state
        self.entry = _entry(raw, dtype, shape, "F" if column_major else "C")


def _entry(raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any = "C") -> Entry:
    shape = tuple(map(int, shape))
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
        raise PickleError("an array of an unknown format")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.dtype.itemsize != len(raw):
        raise PickleError(f"an array of shape {shape} with {len(raw)} bytes")
    kind = dtype.dtype
    return Entry(shape, lambda: np.frombuffer(raw, kind).reshape(shape, order=order))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str = "latin1", *_: Any) -> bytes:
    """Bytes in pickle protocol 2."""
    if encoding != "latin1":
        raise PickleError(f"bytes in the unknown encoding {encoding!r:.20}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """Empty bytes in pickle protocol 2; real `bytes(n)` would allocate any number of zeros."""
    return b""


def _scalar(dtype: _Dtype, raw: Any, *_: Any) -> Entry:
    return _entry(raw, dtype, ())


def _parameter(data: Entry, *_: Any) -> Entry:
    return data


class _Dictionary(dict):
    """Replaces `OrderedDict`; PyTorch's attributes of it (`_metadata`) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
    ("numpy", "ndarray"): "ndarray",  # only an argument of _reconstruct
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Call(_encode),
    ("__builtin__", "bytes"): _Call(_empty_bytes),
} | {
    (f"numpy.{core}.{module}", name): _Call(replacement)
    for core in ("core", "_core")
    for module, name, replacement in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _entry),
    )
}


WRAPPERS = ("model", "state_dict", "model_state_dict", "module")  # in a checkpoint of a training


def arrays(value: Any) -> dict[str, Entry]:
    """The named arrays of a loaded pickle: a dictionary, or the one in it under a name of `WRAPPERS`.

    Raises PickleError if there is none, or if it contains anything but arrays.
    """
    for _ in range(4):  # a dictionary may hold itself
        inner = [value[key] for key in WRAPPERS if isinstance(value.get(key), dict)] if isinstance(value, dict) else []
        value = inner[0] if inner else value
    if not isinstance(value, dict) or not value:
        raise PickleError("the pickle contains no dictionary of arrays")
    named: dict[str, Entry] = {}
    for name, array in value.items():
        entry = array.entry if isinstance(array, _Array) else array
        if not isinstance(name, str) or not isinstance(entry, Entry):
            raise PickleError(f"not a dictionary of arrays: {name!r:.60} is not an array")
        named[name] = entry
    return named


def loads(data: bytes, storage: Callable[[Storage], np.ndarray] | None = None) -> Any:
    """Like `load`, from bytes."""
    return load(io.BytesIO(data), storage)
