"""TIFF files as microscopes write them: negatives, a fourth channel, stacks, BigTIFF; and damaged ones."""

import cv2
import numpy as np
import pytest

from crystal.data import tiff as module
from crystal.data.images import MAX_PIXELS, ImageError, count_pages, decode_image, read_image, stated_size
from crystal.data.tiff import read_pages
from tests.tiff_files import tiff


def picture(seed=0, height=40, width=60, channels=0):
    """Smooth; more than a few pixels are 0 and 255."""
    shape = (height, width, channels) if channels else (height, width)
    soft = cv2.GaussianBlur(np.random.default_rng(seed).random(shape), (0, 0), 3)
    low, high = np.quantile(soft, [0.02, 0.98], axis=(0, 1))
    return np.rint(np.clip((soft - low) / (high - low), 0, 1) * 255).astype(np.uint8)


GREY, COLOUR = picture(), picture(1, channels=3)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("photometric", [0, 1])
def test_white_is_zero_is_no_negative(order, big, kind, photometric):
    stored = GREY.astype(kind) * (1 if kind == np.uint8 else 16)
    stored = stored if photometric else (255 * (1 if kind == np.uint8 else 16) - stored)
    data = tiff(stored, photometric=photometric, order=order, big=big)
    assert stated_size(data, "a") == GREY.shape
    got = decode_image(data, "a")
    assert np.abs(got[..., 0].astype(int) - GREY).max() <= 2
    assert np.array_equal(got[..., 0], got[..., 2])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("fourth", [0, 90])
@pytest.mark.parametrize("extra", [(), (0,)])
def test_a_fourth_channel_that_is_no_alpha_is_not_seen(kind, fourth, extra):
    factor = 1 if kind == np.uint8 else 257
    stored = np.dstack([COLOUR, np.full_like(GREY, fourth)]).astype(kind) * kind(factor)
    got = decode_image(tiff(stored, photometric=2, extra=extra), "a")
    assert np.abs(got.astype(int) - COLOUR).max() <= 2


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [(1,), (2,)])
def test_alpha_lies_over_white_once(kind, extra):
    """Whether the colours are multiplied by it in the file (1) or not (2)."""
    factor, alpha = 1 if kind == np.uint8 else 257, np.full((*GREY.shape, 1), 128, int)
    colours = COLOUR * (alpha / 255) if extra == (1,) else COLOUR
    stored = np.rint(np.concatenate([colours, alpha], 2) * factor).astype(kind)
    got = decode_image(tiff(stored, photometric=2, extra=extra), "a")
    wanted = COLOUR * (128 / 255) + 255 * (1 - 128 / 255)
    assert np.abs(got - wanted).max() <= 3


def test_five_channels_and_planar_colours():
    five = np.dstack([COLOUR, GREY, GREY])
    assert np.array_equal(decode_image(tiff(five, photometric=2, extra=(0, 0)), "a"), COLOUR)
    assert np.array_equal(decode_image(tiff(COLOUR, photometric=2, planar=2), "a"), COLOUR)
    with pytest.raises(ImageError, match=r"a: has 6 channels"):
        decode_image(tiff(np.dstack([GREY] * 6), extra=(0,) * 5), "a")
    with pytest.raises(ImageError, match=r"a: stores channels of 16 bits one after the other .*; export it"):
        decode_image(tiff(COLOUR.astype(np.uint16), photometric=2, planar=2), "a")
    grey_and_alpha = np.dstack([GREY, np.full_like(GREY, 255)])
    assert np.array_equal(decode_image(tiff(grey_and_alpha, extra=(2,)), "a")[..., 0], GREY)
    with pytest.raises(ImageError, match="a: is grey of 16 bits with an alpha channel; export it without one"):
        decode_image(tiff(grey_and_alpha.astype(np.uint16), extra=(2,)), "a")


def stack(kind=np.uint8):
    """Five slices; the fourth is in focus, and the last is a thumbnail."""
    sharp = np.random.default_rng(3).integers(0, 256, (60, 80)).astype(np.uint8)
    noise = np.random.default_rng(4).normal(0, 2, (4, 60, 80))
    blurred = [cv2.GaussianBlur(sharp, (0, 0), sigma) for sigma in (4, 3, 2)]
    slices = [np.clip(s + n, 0, 255).astype(kind) for s, n in zip([*blurred, sharp], noise, strict=True)]
    return slices, [*slices, sharp[::2, ::2].astype(kind)]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("big", [False, True])
def test_the_sharpest_page_of_a_stack(tmp_path, kind, big):
    slices, pages = stack(kind)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(*pages, big=big))
    assert count_pages(path) == (5, 4)
    first, second, third, fourth = (decode_image(tiff(s), "a") for s in slices)
    assert np.array_equal(read_image(path), fourth)
    assert np.array_equal(read_image(path, "first"), first)
    for number, wanted in enumerate((first, second, third, fourth), 1):
        assert np.array_equal(read_image(path, number), wanted)
    assert read_image(path, 5).shape == (30, 40, 3)
    for number in (0, -1, 6):
        with pytest.raises(ImageError, match=rf"a\.tif: has 5 page\(s\), so no page {number}; choose another --page"):
            read_image(path, number)


def test_of_negatives_too_and_a_reduced_page_of_the_same_size_does_not_count(tmp_path):
    slices, _ = stack(np.uint16)
    data = tiff(*[255 - s for s in slices], photometric=0)
    assert np.array_equal(decode_image(data, "a"), decode_image(tiff(slices[3]), "a"))
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(slices[0]))
    assert count_pages(path) == (1, 1)
    path.write_bytes(tiff(*slices, more={254: (4, [1])}))
    assert count_pages(path) == (4, 1)
    path.write_bytes(b"no image")
    assert count_pages(path) == (1, 1)
    assert count_pages(tmp_path / "gone.tif") == (1, 1)


def test_pages_in_a_circle_and_cut_short():
    data = bytearray(tiff(GREY, GREY))
    assert len(read_pages(bytes(data))) == 2
    data[-4:] = data[4:8]  # the last page leads to the first
    assert len(read_pages(bytes(data))) == 2
    for kept in range(0, len(data), 7):
        read_pages(bytes(data[:kept]))
    assert read_pages(b"\x89PNG") == []


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_bombs_are_refused_before_decoding(monkeypatch, big, kind):
    """In any page, and by bytes where a pixel has many."""
    monkeypatch.setattr(module, "decode_page", lambda *arguments: pytest.fail("decoded"))
    small, side = np.zeros((4, 4, 4), kind), 60_000
    huge = tiff(small, big=big, photometric=2, more={256: (4, [side]), 257: (4, [side])})
    with pytest.raises(ImageError, match="a: states more than 178 megapixels; crop it or scale it down"):
        decode_image(huge, "a")
    side = 12_000
    assert side**2 < MAX_PIXELS
    large = tiff(small, big=big, photometric=2, more={256: (4, [side]), 257: (4, [side])}) + bytes(20_000)
    monkeypatch.setattr("crystal.data.images.MOST_PIXELS_A_BYTE", 10**9)
    if kind == np.float64:
        with pytest.raises(ImageError, match=r"a: page 1 is too large"):
            decode_image(large, "a")


def test_mutated_stacks_end_in_an_image_or_an_image_error():
    data = tiff(GREY, GREY, GREY)
    rng = np.random.default_rng(0)
    for _ in range(200):
        mutated = np.frombuffer(data, np.uint8)[: rng.integers(1, len(data) + 1)].copy()
        mutated[rng.integers(0, len(mutated), 4)] = rng.integers(0, 256, 4)
        mutated[rng.integers(max(len(mutated) - 500, 0), len(mutated), 4)] = rng.integers(0, 256, 4)
        try:
            image = decode_image(mutated.tobytes(), "a")
        except ImageError:
            continue
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
