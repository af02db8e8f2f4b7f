"""One outline: run lengths and polygons against pycocotools, and what is refused before it gets there."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from crystal.data.segmentation import SegmentationError, check_segmentation, draw_cells, draw_pixels, to_rle

HEIGHT, WIDTH = 40, 60


def packed(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def unpacked(mask: np.ndarray) -> dict:
    flat = np.r_[0, mask.T.ravel().astype(int), 0 if mask.T.ravel()[-1] else 1]
    counts = np.diff(np.r_[0, np.flatnonzero(np.diff(flat))])
    counts = counts.tolist()
    if sum(counts) < mask.size:
        counts.append(mask.size - sum(counts))
    return {"size": list(mask.shape), "counts": counts}


def test_random_run_lengths_equal_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(100):
        shape = rng.integers(1, 90, 2)
        mask = rng.random(shape) < rng.choice([0.01, 0.3, 0.99])
        mask[rng.integers(shape[0]), rng.integers(shape[1])] = True
        for write in (packed, unpacked):
            rle, extent, *_ = check_segmentation(write(mask), *mask.shape)
            assert np.array_equal(draw_pixels(rle, *mask.shape), mask)
            x, y, w, h = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
            if (
                mask.T.ravel()[1:] & mask.T.ravel()[:-1]
            ).sum():  # pycocotools widens the box of runs that turn a column
                assert np.allclose(extent, [x, y, x + w, y + h])


def test_a_crop_is_drawn_as_in_the_whole_image():
    rng = np.random.default_rng(2)
    differing = []
    for _ in range(200):
        points = rng.uniform(0, 60, (rng.integers(3, 12), 2)).round(int(rng.integers(1, 3)))
        polygon = [points.ravel().tolist()]
        whole = coco_mask.decode(coco_mask.frPyObjects(polygon, 60, 60))[..., 0]
        assert np.array_equal(draw_pixels(polygon, 60, 60), whole)
        (x1, y1), (x2, y2) = np.floor(points.min(0)).astype(int).tolist(), np.ceil(points.max(0)).astype(int).tolist()
        differing.append((draw_pixels(polygon, 60, 60, (x1, y1, x2, y2)) != whole[y1:y2, x1:x2]).sum())
        assert whole.sum() == whole[y1:y2, x1:x2].sum()
    assert max(differing) <= 1  # a tie in pycocotools' rounding, in 3 of 5000
    assert sum(differing) <= 2


def test_run_lengths_of_an_outline_are_its_pixels():
    rng = np.random.default_rng(4)
    for _ in range(30):
        polygons = [rng.uniform(-5, 60, 2 * int(rng.integers(3, 9))).tolist() for _ in range(int(rng.integers(1, 3)))]
        mask = rng.random((HEIGHT, WIDTH)) < 0.3
        for outline in (polygons, packed(mask), unpacked(mask)):
            outline = check_segmentation(outline, HEIGHT, WIDTH).outline
            pixels = draw_pixels(outline, HEIGHT, WIDTH)
            assert np.array_equal(coco_mask.decode(to_rle(outline, HEIGHT, WIDTH)), pixels)
            if isinstance(outline, dict):
                assert np.array_equal(draw_pixels(outline, HEIGHT, WIDTH, (7, 3, 41, 29)), pixels[3:29, 7:41])


def test_an_endless_outline_is_refused():
    """A megabyte of corners, to and fro across a large image: pycocotools alone would set aside 4 GB for it."""
    side = 10_000
    corners = np.stack([np.linspace(0, side, 50_000), np.tile([0.0, side], 25_000)], 1)
    with pytest.raises(SegmentationError, match="longer than any object's"):
        check_segmentation([corners.ravel().tolist()], side, side)
    outline = check_segmentation([[0, 0, side, 0, side, side, 0, side]], side, side).outline
    assert int(coco_mask.area(to_rle(outline, side, side))) == side * side


@pytest.mark.parametrize("counts", [[2**39] * 2**8, [2**63, 5], [0, HEIGHT * WIDTH + 1, -1]])
def test_run_lengths_that_would_overflow(counts):
    with pytest.raises(SegmentationError, match=r"add up|neither"):
        check_segmentation({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)


def test_cells_by_hand():
    square = [[0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0]]
    assert draw_cells(square, (0.0, 0.0, 4.0, 2.0), 10, 10, 2).tolist() == [[1, 0], [1, 0]]
    assert draw_cells(square, (0.0, 0.0, 4.0, 2.0), 10, 10, 1).tolist() == [[1]]  # half of it counts


def test_polygons_are_clipped_at_every_side():
    far = 1e9
    outline, extent, left_out, clipped = check_segmentation(
        [[-far, -far, far, -far, far, far, -far, far]], HEIGHT, WIDTH
    )
    assert extent == (0, 0, WIDTH, HEIGHT)
    assert (left_out, clipped) == ((), True)
    assert draw_pixels(outline, HEIGHT, WIDTH).all()


def test_inside_polygons_stay_as_they_are():
    polygon = [[0.0, 0.0, 60.0, 40.0, 3.25, 17.5]]
    assert check_segmentation(polygon, HEIGHT, WIDTH)[0] == polygon


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_refused_or_drawn(seed):
    """Whatever a string of counts says, nothing is written beyond the image."""
    rng = np.random.default_rng(seed)
    sound = packed(rng.random((HEIGHT, WIDTH)) < 0.1)
    refused = 0
    for _ in range(200):
        counts = bytearray(sound["counts"].encode())
        counts[rng.integers(len(counts))] = rng.integers(30, 127)
        try:
            outline = check_segmentation(sound | {"counts": bytes(counts)}, HEIGHT, WIDTH).outline
        except SegmentationError:
            refused += 1
            continue
        assert draw_pixels(outline, HEIGHT, WIDTH).shape == (HEIGHT, WIDTH)
    assert refused > 100
