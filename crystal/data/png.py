"""PNG files written quickly: colour, 8-bit palette and 1-bit masks.

A converted image takes some 25 PNG files, and writing them is most of the work. Intel's ISA-L deflates about four times
as fast as zlib at about the same size (`isal`); where it does not exist for a machine, zlib does the same slower.
The bytes are ordinary PNG (PNG specification, third edition, sections 5 and 9).
"""

import struct
import zlib

import numpy as np
from jaxtyping import Bool, UInt8

try:
    from isal.isal_zlib import compress as _deflate
except ImportError:
    from zlib import compress as _deflate

LEVEL = 1  # of both libraries: the next one halves the speed for 3 % of the size
_GREY, _RGB, _PALETTE = 0, 2, 3  # PNG's colour types
_AS_IT_IS, _UP = 0, 2  # PNG's filters: a row as it is, or its difference to the row above


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _file(rows: UInt8[np.ndarray, "h n"], width: int, bits: int, colour: int, palette: bytes, up: bool) -> bytes:
    height = len(rows)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP if up else _AS_IT_IS
    filtered[:, 1:] = rows
    if up:  # photographs; large areas of one value are best left alone
        filtered[1:, 1:] -= rows[:-1]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + (_chunk(b"PLTE", palette) if palette else b"")
    return b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IDAT", _deflate(filtered.data, LEVEL)) + _chunk(b"IEND", b"")


def encode_rgb(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """An RGB image, 8 bits a channel."""
    return _file(np.ascontiguousarray(image).reshape(len(image), -1), image.shape[1], 8, _RGB, b"", up=True)


def encode_palette(indices: UInt8[np.ndarray, "h w"], colours: UInt8[np.ndarray, "k 3"]) -> bytes:
    """An image of indices into at most 256 RGB colours, 8 bits a pixel."""
    return _file(indices, indices.shape[1], 8, _PALETTE, colours.tobytes(), up=False)


def encode_mask(patch: Bool[np.ndarray, "ph pw"], top: int, left: int, *, height: int, width: int) -> bytes:
    """A mask of [height, width], white where `patch` at (top, left) is True and black elsewhere, 1 bit a pixel."""
    skipped = left // 8
    aligned = np.pad(patch, ((0, 0), (left % 8, 0)))
    packed = np.packbits(aligned, axis=1)
    rows = np.zeros((height, (width + 7) // 8), np.uint8)
    rows[top : top + patch.shape[0], skipped : skipped + packed.shape[1]] = packed
    return _file(rows, width, 1, _GREY, b"", up=False)
