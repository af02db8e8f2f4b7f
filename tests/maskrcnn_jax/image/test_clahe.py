"""CLAHE and histogram equalisation against OpenCV, to the last bit."""

import importlib
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystal.drops.drop import draw_drop
from maskrcnn_jax.image.clahe import _clahe, clahe, clahe_rgb, equalize
from tests import oracles
from tests.traced import assert_jit_changes_nothing, default_jit

DROPS = Path(__file__).parents[3].parent / "shared" / "data" / "drops"
PRIMES = (1, 2, 3, 5, 7, 11, 13, 31, 53, 97, 127, 149)


OPTIMISED = default_jit(_clahe.__wrapped__, static_argnames="tiles")
optimised_equalize = default_jit(equalize)


@pytest.fixture
def default_options(monkeypatch):
    """Compile with XLA's default options, as users do, whatever those of the tests are."""
    module = importlib.import_module("maskrcnn_jax.image.clahe")  # the package's own attribute is the function
    monkeypatch.setattr(module, "_clahe", OPTIMISED)
    monkeypatch.setitem(globals(), "equalize", optimised_equalize)


def opencv(image, clip_limit, tiles):
    return cv2.createCLAHE(clip_limit, tiles[::-1]).apply(image)


def opencv_rgb(image, clip_limit, tiles):
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = opencv(np.ascontiguousarray(lab[..., 0]), clip_limit, tiles)
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def grey_images(random, height, width):
    """Five kinds of image: noise, one level, a faint texture, a ramp, and something like a micrograph."""
    ramp = np.add.outer(np.arange(height) * 255 // height, np.arange(width) * 255 // width) // 2
    smooth = cv2.GaussianBlur(random.uniform(0, 255, (height, width)), (0, 0), 4)
    edges = smooth + 60 * (np.add.outer(np.arange(height), 2 * np.arange(width)) % 41 < 9)
    kinds = (
        random.integers(0, 256, (height, width)),
        np.full((height, width), random.integers(256)),
        random.normal(128, 6, (height, width)),
        ramp,
        edges + random.normal(0, 3, (height, width)),
    )
    return [np.clip(kind, 0, 255).astype(np.uint8) for kind in kinds]


# 4 x 3 sizes x 4 x 5 images = 240 settings; each size and tile count compiles once, the clip limit is traced.
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("default_options")
def test_equals_opencv_at_random_settings(seed):
    random = np.random.default_rng(seed)
    for kind in ("primes", "divisible", "any"):
        tiles = tuple(int(n) for n in random.integers(1, 17, 2))
        if kind == "primes":
            height, width = random.choice(PRIMES, 2)
        elif kind == "divisible":  # the path without padding
            height, width = random.integers(1, 12, 2) * tiles
        else:
            height, width = random.integers(1, 180, 2)
        for image in [image for _ in range(4) for image in grey_images(random, int(height), int(width))]:
            clip_limit = float(random.choice([0, random.uniform(0, 4), random.uniform(0, 40), 40]))
            different = np.asarray(clahe(image, clip_limit=clip_limit, tiles=tiles)) != opencv(image, clip_limit, tiles)
            assert not different.any(), (image.shape, tiles, clip_limit, int(different.sum()))


@pytest.mark.parametrize(("height", "width", "tiles"), [(240, 288, (8, 8)), (229, 307, (12, 12)), (229, 307, (3, 16))])
@pytest.mark.usefixtures("default_options")
def test_equals_opencv_on_rendered_drops(height, width, tiles):
    """What training sees: grey and colour, at a size that the tiles divide and at one of prime sides; and, in colour,
    noise around one colour.
    """
    image = draw_drop(0, height=height, width=width, light=0.6).image
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    for clip_limit in (0.0, 2.0, 3.7, 40.0):
        np.testing.assert_array_equal(clahe(grey, clip_limit=clip_limit, tiles=tiles), opencv(grey, clip_limit, tiles))
    np.testing.assert_array_equal(clahe_rgb(image, tiles=tiles), opencv_rgb(image, 2.0, tiles))
    np.testing.assert_array_equal(equalize(grey), cv2.equalizeHist(grey))
    random = np.random.default_rng(4)
    for spread in (3, 60):
        image = np.clip(random.normal(random.uniform(40, 200, 3), spread, image.shape), 0, 255).astype(np.uint8)
        for clip_limit in (0.0, 2.0, 11.3):
            ours = clahe_rgb(image, clip_limit=clip_limit, tiles=tiles)
            np.testing.assert_array_equal(ours, opencv_rgb(image, clip_limit, tiles))


@pytest.mark.parametrize(
    ("height", "width", "tiles"), [(1, 1, (1, 1)), (1, 1, (8, 8)), (1, 2, (16, 16)), (2, 1, (1, 16)), (5, 3, (8, 8))]
)
@pytest.mark.usefixtures("default_options")
def test_equals_opencv_on_the_smallest_images(height, width, tiles):
    image = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    np.testing.assert_array_equal(clahe(image, clip_limit=2.0, tiles=tiles), opencv(image, 2.0, tiles))


@pytest.mark.usefixtures("default_options")
def test_equals_opencv_on_real_drops():
    if not DROPS.is_dir():
        pytest.skip("the real drop images are not part of the repository")
    for path in sorted(DROPS.glob("*.jpg"))[:3]:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        for clip_limit in (2.0, 3.7):
            np.testing.assert_array_equal(clahe(grey, clip_limit=clip_limit), opencv(grey, clip_limit, (8, 8)))
        np.testing.assert_array_equal(clahe_rgb(image), opencv_rgb(image, 2.0, (8, 8)))
        np.testing.assert_array_equal(equalize(grey), cv2.equalizeHist(grey))


@pytest.mark.parametrize(("clip_limit", "tiles"), [(0.0, (1, 1)), (2.0, (2, 3)), (40.0, (3, 2))])
def test_equals_the_oracle(clip_limit, tiles):
    image = np.random.default_rng(1).integers(90, 140, (17, 22), dtype=np.uint8)
    np.testing.assert_array_equal(
        clahe(image, clip_limit=clip_limit, tiles=tiles), oracles.clahe(image, clip_limit, tiles)
    )


def test_residue_is_handed_out_at_equal_steps():
    # One level fills the 32 x 32 tile: 1024 pixels, 8 stay (2 * 1024 / 256), excess 1016 = 3 * 256 + 248.
    image = np.full((32, 32), 100, np.uint8)
    # Up to level 100: 101 * 3 from the excess, 101 of the residue (one each, step 1), and the 8.
    expected = round((101 * 3 + 101 + 8) * 255 / 1024)
    assert np.unique(clahe(image, clip_limit=2.0, tiles=(1, 1))).tolist() == [expected]


@given(seed=st.integers(0, 2**32 - 1), clip_limit=st.floats(0, 40))
@settings(max_examples=20, deadline=None)
def test_one_tile_is_one_monotone_curve(seed, clip_limit):
    image = np.random.default_rng(seed).integers(0, 256, (24, 24), dtype=np.uint8)
    result = np.asarray(clahe(image, clip_limit=clip_limit, tiles=(1, 1)))
    order = np.argsort(image, axis=None)
    assert np.all(np.diff(result.ravel()[order].astype(int)) >= 0)


def test_a_clip_limit_beyond_the_tile_clips_nothing():
    image = np.random.default_rng(2).integers(0, 256, (24, 24), dtype=np.uint8)
    without = clahe(image, clip_limit=0, tiles=(2, 2))
    for clip_limit in (256.0, 1e9, float("inf")):
        np.testing.assert_array_equal(clahe(image, clip_limit=clip_limit, tiles=(2, 2)), without)


def test_vmap_changes_nothing():
    images = np.random.default_rng(3).integers(0, 256, (2, 12, 18), dtype=np.uint8)
    each = [clahe(image, clip_limit=3.0, tiles=(2, 4)) for image in images]
    np.testing.assert_array_equal(jax.vmap(lambda image: clahe(image, clip_limit=3.0, tiles=(2, 4)))(images), each)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (97, 101)])
def test_equalize_equals_opencv_and_the_oracle(height, width):
    for image in grey_images(np.random.default_rng(5), height, width):
        np.testing.assert_array_equal(equalize(image), cv2.equalizeHist(image))
    np.testing.assert_array_equal(equalize(image[:20, :20]), oracles.equalize(image[:20, :20]))


@given(seed=st.integers(0, 2**32 - 1), low=st.integers(0, 250), span=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_equalize_keeps_the_order_and_fills_the_range(seed, low, span):
    image = np.random.default_rng(seed).integers(low, low + span + 1, (9, 9), dtype=np.uint8)
    result = np.asarray(equalize(image)).ravel().astype(int)
    assert np.all(np.diff(result[np.argsort(image, axis=None)]) >= 0)
    if image.min() < image.max():
        assert (result.min(), result.max()) == (0, 255)
    else:
        np.testing.assert_array_equal(result, image.ravel())


def test_equalize_with_one_trace():
    images = np.random.default_rng(6).integers(0, 256, (2, 9, 11), dtype=np.uint8)
    assert_jit_changes_nothing(equalize, (images[0],), (images[1],))


def test_another_image_or_clip_limit_does_not_compile_again():
    images = np.random.default_rng(7).integers(0, 256, (3, 19, 23), dtype=np.uint8)
    before = _clahe._cache_size()
    for image, clip_limit in zip(images, (0.0, 1.5, 40.0), strict=True):
        clahe(image, clip_limit=clip_limit, tiles=(5, 7))
    assert _clahe._cache_size() == before + 1
