"""Sizes out of headers: right for sound files, no exception for others, and looked at before anything is decoded."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from crystal.data import images
from crystal.data.image_header import chunks_fit, claimed_size
from crystal.data.images import ImageError, decode_image, read_image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(header: tuple, rows: bytes, *extra: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", *header)),
            *extra,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def claims(suffix: str, side: int) -> bytes:
    """A small file of each kind that claims side x side pixels."""
    small = bytearray(cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    if suffix == ".png":
        return png((side, side, 8, 2, 0, 0, 0), b"")
    if suffix == ".bmp":
        small[18:26] = struct.pack("<ii", side, side)
    elif suffix == ".jpg":
        at = small.index(b"\xff\xc0") + 5
        small[at : at + 4] = struct.pack(">HH", side, side)
    else:
        (at,) = struct.unpack_from("<I", small, 4)
        for entry in range(at + 2, at + 2 + 24, 12):
            if struct.unpack_from("<H", small, entry)[0] in (256, 257):
                small[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(small)


@pytest.mark.parametrize(
    ("suffix", "side"), [(".png", 100_000), (".bmp", 100_000), (".tif", 100_000), (".jpg", 60_000)]
)
def test_absurd_size_is_refused_before_decoding(tmp_path, suffix, side, monkeypatch):
    path = tmp_path / f"huge{suffix}"
    path.write_bytes(claims(suffix, side))
    assert claimed_size(path.read_bytes()) == (side, side)
    monkeypatch.setattr(images, "_decode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=rf"huge{suffix}: claims {side} x {side} pixels.*scale it down"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_claimed_size_of_sound_and_mutated_files(suffix):
    data = cv2.imencode(suffix, np.zeros((19, 33, 3), np.uint8))[1].tobytes()
    assert claimed_size(data) == (19, 33)
    rng = np.random.default_rng(0)
    for _ in range(300):
        mutated = np.frombuffer(data, np.uint8)[: rng.integers(1, len(data))].copy()
        mutated[rng.integers(0, len(mutated), 4)] = rng.integers(0, 256, 4)
        claimed_size(mutated.tobytes())  # whatever it answers, no exception


def test_a_size_that_so_few_bytes_cannot_hold_is_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(images, "_decode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"12000 x 12000 pixels, more than its \d+ bytes can hold"):
        decode_image(claims(".jpg", 12_000), "drop.jpg")


def test_an_even_image_is_not_mistaken_for_one_that_cannot_be():
    even = np.full((4000, 4000), 255, np.uint8)
    packed = cv2.imencode(".png", even, [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    for data in (packed, cv2.imencode(".jpg", even, [cv2.IMWRITE_JPEG_QUALITY, 1])[1].tobytes()):
        assert decode_image(data, "even").shape == (4000, 4000, 3)


def test_a_chunk_that_leads_beyond_the_end_is_not_followed(monkeypatch):
    """A decoder would set the claimed length aside first, up to 2 GB."""
    sound = png((2, 2, 8, 0, 0, 0, 0), b"\0ab\0cd")
    assert chunks_fit(sound)
    assert chunks_fit(b"\xff\xd8\xff")  # other formats are not ours to judge
    at = sound.index(b"IDAT") - 4
    damaged = sound[:at] + (2**31 - 1).to_bytes(4, "big") + sound[at + 4 :]
    assert not chunks_fit(damaged)
    monkeypatch.setattr(images, "_decode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="damaged"):
        decode_image(damaged, "drop.png")
