"""The size that an image file claims, read from its first bytes without decoding a pixel.

A file of 100 bytes can claim 100,000 x 100,000 pixels, and a decoder would set the memory aside before it notices.
Looks only at what is needed: PNG's IHDR, BMP's header, TIFF's first directory, JPEG's frame segment.
"""

import struct

_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # JPEG's SOFn markers
_ALONE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT = 256, 257, 3


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    found = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            (found[tag],) = struct.unpack_from(order + ("H" if kind == _TIFF_SHORT else "I"), data, entry + 8)
    return (found[_TIFF_HEIGHT], found[_TIFF_WIDTH]) if len(found) == 2 else None


def claimed_size(data: bytes) -> tuple[int, int] | None:
    r"""(height, width) in pixels as the header says, before any EXIF rotation; None where it cannot be told.

    >>> claimed_size(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\0\x05\0\0\0\x03")
    (3, 5)
    """
    try:
        if data.startswith(b"\x89PNG"):
            width, height = struct.unpack_from(">II", data, 16)
            return height, width
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(height), abs(width)  # a negative height: rows from the top
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
    except struct.error:  # shorter than its own header
        return None
    return None


def chunks_fit(data: bytes) -> bool:
    r"""Whether a PNG's chunks end before the file does; True for other formats.

    A damaged length of four bytes makes a decoder set up to 2 GB aside, and fill it, before it reads the chunk.

    >>> chunks_fit(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND1234"), chunks_fit(b"\x89PNG\r\n\x1a\n" + b"\x7f\0\0\0IDAT1234")
    (True, False)
    """
    at = 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):  # length, kind, content, checksum
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return at <= max(len(data), 8)
