"""Arrays out of a pickle that is not trusted: nothing of the pickle's own choice is ever called.

A pickle is a program: `GLOBAL os.system, REDUCE` runs a command while it is loaded. Weights need a dozen names at most
(NumPy's array and dtype, PyTorch's tensor and storage, the ordered dictionary), so a name that is not among them is
refused, and even those stand here for plain records of this module: neither NumPy nor PyTorch is asked to build
anything. The opcodes are read through once before, without being carried out, so that a file cut short, one with
opcodes that weights do not need, or one that claims a gigantic memo, is refused as well.
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
    """A pickle that holds more than arrays, or less than a whole one."""


class Entry(NamedTuple):
    """An array in a file: its shape, known at once, and `read`, which brings it into memory as it is stored."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Storage(NamedTuple):
    """Numbers of a PyTorch file that lie apart from its pickle, under `key`."""

    key: str
    kind: str
    size: int


# Read (or skipped) while looking through a pickle; everything else (INST, OBJ, EXT, PERSID, ...) is no part of weights.
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
    seen: dict[str, Storage] | None = None,
) -> Any:
    """The object of the pickle at the file's position, which is left behind its end. Arrays and tensors in it are
    `Entry`s.

    `storage` gives the numbers of a PyTorch storage, flat, in the type that `Storage.kind` names (bfloat16 as uint16);
    `seen` is filled with the storages that the pickle names, by key.

    Raises PickleError.
    """
    start = file.tell()
    _look_through(file)
    end = file.tell()
    file.seek(start)
    try:
        value = _Unpickler(file, storage, {} if seen is None else seen).load()
    except PickleError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise PickleError(f"a damaged pickle ({type(error).__name__}: {error})") from error
    file.seek(end)
    return value


def _look_through(file: File) -> None:
    """Read the opcodes up to STOP without carrying any out."""
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name not in OPCODES:
                raise PickleError(f"the pickle uses {opcode.name}, which weights do not need")
            # The memo is an array as long as its largest index.
            if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > number:
                raise PickleError("a damaged pickle (its memo is larger than itself)")
    except PickleError:
        raise
    except (ValueError, IndexError, OverflowError, MemoryError, UnicodeError) as error:
        raise PickleError(f"the file is cut short or damaged ({error})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: File, storage: Callable[[Storage], np.ndarray] | None, seen: dict[str, Storage]) -> None:
        super().__init__(file, encoding="latin1")  # bytes of Python 2 are text of this encoding
        self.storage, self.seen = storage, seen

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        if module == "torch" and name in TORCH_KINDS:
            return TORCH_KINDS[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _Call(self._tensor)
        raise PickleError(f"the pickle asks for {module}.{name}, which is no part of weights; nothing of it was run")

    def persistent_load(self, pid: Any, /) -> Storage:
        kind, key, count = pid[1], pid[2], pid[4]
        if pid[0] != "storage" or kind not in TORCH_KINDS.values() or any(p is not None for p in pid[5:]):
            raise PickleError(f"a storage that is not understood: {pid!r:.80}")
        return self.seen.setdefault(str(key), Storage(str(key), kind, int(count)))

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
            raise PickleError(f"a tensor of size {size} that reaches beyond its {storage!r:.60}")

        def read() -> np.ndarray:
            if self.storage is None:
                raise PickleError("a tensor outside of a PyTorch file")
            numbers = self.storage(storage)
            if empty:
                return np.zeros(size, numbers.dtype)
            steps = tuple(s * numbers.itemsize for s in stride)
            view = np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False)
            return bfloat16_to_float32(view) if storage.kind == "bf16" else view

        return Entry(size, read)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """uint16 bits of bfloat16 numbers as float32: its upper half.

    >>> bfloat16_to_float32(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


class _Call:
    """A function that a pickle may call, and may do nothing else with (its BUILD could set attributes)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise PickleError("the pickle tries to change a function")


class _Dtype:
    """What stands for `numpy.dtype`: a kind and a byte order, no structure, no objects."""

    def __init__(self, kind: str, *_: Any):
        kind = kind.lstrip("<=|")
        if kind not in NUMPY_KINDS:
            raise PickleError(f"an array of {kind!r:.40}, where numbers are expected")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "=", "|"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array(dict):
    """What stands for a NumPy array while its pickle is read; `Entry`s are made of it afterwards.

    A dict (always empty) only because NamedTuples cannot be filled by `__setstate__`.
    """

    entry: Entry | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, raw = state
        self.entry = _entry(raw, dtype, shape, "F" if column_major else "C")


def _entry(raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any = "C") -> Entry:
    shape = tuple(map(int, shape))
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
        raise PickleError("an array that is not understood")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.dtype.itemsize != len(raw):
        raise PickleError(f"an array of shape {shape} with {len(raw)} bytes")
    kind = dtype.dtype
    return Entry(shape, lambda: np.frombuffer(raw, kind).reshape(shape, order=order))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str = "latin1", *_: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise PickleError(f"bytes written as {encoding!r:.20}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes no bytes; bytes(n) would be as many zeros as the pickle likes."""
    return b""


def _scalar(dtype: _Dtype, raw: Any, *_: Any) -> Entry:
    return _entry(raw, dtype, ())


def _parameter(data: Entry, *_: Any) -> Entry:
    return data


class _Dictionary(dict):
    """What stands for `OrderedDict`; PyTorch hangs notes on it (`_metadata`), which are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Call(_encode),
    ("__builtin__", "bytes"): _Call(_no_bytes),
} | {
    (f"numpy.{core}.{module}", name): _Call(stand_in)
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _entry),
    )
}


def arrays(value: Any) -> dict[str, Entry]:
    """The named arrays of a loaded pickle: a dictionary, or the one under "model" or "state_dict" in it.

    Raises PickleError if there is none, or if something in it is no array.
    """
    while isinstance(value, dict) and isinstance(inner := value.get("model", value.get("state_dict")), dict):
        value = inner
    if not isinstance(value, dict) or not value:
        raise PickleError("the pickle holds no dictionary of arrays")
    named: dict[str, Entry] = {}
    for name, array in value.items():
        entry = array.entry if isinstance(array, _Array) else array
        if not isinstance(name, str) or not isinstance(entry, Entry):
            raise PickleError(f"no arrays: {name!r:.60} is none")
        named[name] = entry
    return named


def loads(data: bytes, storage: Callable[[Storage], np.ndarray] | None = None) -> Any:
    """`load` of bytes."""
    return load(io.BytesIO(data), storage)
