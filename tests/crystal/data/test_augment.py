"""Variations keep image, boxes and masks together: what is drawn from boxes and masks moves as the image does."""

import cv2
import numpy as np
import pytest

from crystal.data.augment import Augmentation, View, augment, flip, relight, shrink
from maskrcnn_jax.roi.masks import paste

HEIGHT, WIDTH, CELLS = 64, 96, 16
STILL = Augmentation(mirror=0.0, tone=0.0, gradient=0.0, blur=0.0, noise=0.0)


def scene(seed=0) -> View:
    """Three objects whose pixels are exactly what their boxes and masks say, on grey, within black padding."""
    rng = np.random.default_rng(seed)
    window = np.array([8, 0, 88, 64], np.float32)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, 8:88] = 60
    boxes, masks = [], []
    for k, (x, y, w, h) in enumerate([(10, 4, 16, 16), (40, 20, 32, 16), (60, 40, 16, 16)]):
        mask = cv2.resize(rng.integers(0, 2, (4, 4), np.uint8), (CELLS, CELLS), interpolation=cv2.INTER_NEAREST)
        boxes.append([x, y, x + w, y + h])
        masks.append(mask)
        image[paste(mask.astype(float), np.array(boxes[-1], float), height=HEIGHT, width=WIDTH)] = 100 + 50 * k
    return View(image, np.array(boxes, np.float32), np.array(masks), window)


def drawn(view: View) -> np.ndarray:
    """Which object the boxes and masks put at each pixel, as its grey level in `scene`; 0 where none."""
    picture = np.zeros(view.image.shape[:2], np.uint8)
    for k, (box, mask) in enumerate(zip(view.boxes, view.masks, strict=True)):
        picture[paste(mask.astype(float), box.astype(float), height=picture.shape[0], width=picture.shape[1])] = (
            100 + 50 * k
        )
    return picture


def same(a: View, b: View) -> bool:
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_scene_is_consistent():
    view = scene()
    assert np.array_equal(np.where(view.image[..., 0] > 60, view.image[..., 0], 0), drawn(view))


@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
def test_flips_are_exact(horizontal, vertical):
    view = scene()
    kept = [a.copy() for a in view]
    turned = flip(view, horizontal=horizontal, vertical=vertical)
    assert np.array_equal(np.where(turned.image[..., 0] > 60, turned.image[..., 0], 0), drawn(turned))
    assert same(flip(turned, horizontal=horizontal, vertical=vertical), view)
    assert all(np.array_equal(a, b) for a, b in zip(view, kept, strict=True))
    x1, y1, x2, y2 = turned.window.astype(int)
    assert (turned.image[y1:y2, x1:x2] > 0).all()
    assert (turned.image > 0).sum() == (turned.image[y1:y2, x1:x2] > 0).sum()


def test_flip_by_hand():
    view = flip(scene(), horizontal=True)
    assert view.boxes[0].tolist() == [70, 4, 86, 20]
    assert view.window.tolist() == [8, 0, 88, 64]
    assert flip(scene(), vertical=True).boxes[0].tolist() == [10, 44, 26, 60]


def test_shrink_moves_boxes_with_the_image():
    view = scene()
    small = shrink(view, 0.5, (1.0, 0.0))
    assert small.window.tolist() == [56, 0, 96, 32]
    assert small.boxes[0].tolist() == [57, 2, 65, 10]
    assert small.masks is view.masks
    ours, truth = drawn(small), np.where(small.image[..., 0] > 85, small.image[..., 0], 0)
    assert np.mean(ours == truth) > 0.99
    for corner in ((0.0, 0.0), (0.999, 0.999), (0.3, 0.8)):
        x1, y1, x2, y2 = shrink(view, 0.61, corner).window.astype(int)
        assert 0 <= x1 < x2 <= WIDTH
        assert 0 <= y1 < y2 <= HEIGHT


def test_light_changes_levels_and_nothing_else():
    picture = scene().image[:, 8:88]
    everything = Augmentation(tone=1.0, gradient=1.0, blur=1.0, noise=1.0)
    for seed in range(20):
        lit = relight(picture, np.random.default_rng(seed), everything)
        assert lit.shape == picture.shape
        assert lit.dtype == np.uint8
        assert 0 < np.abs(lit.astype(int) - picture).mean() < 80


def test_augment_keeps_padding_black_and_its_input_untouched():
    view = scene()
    kept = [a.copy() for a in view]
    how = Augmentation(tone=1.0, gradient=1.0, blur=1.0, noise=1.0, offset=60.0, shrink=0.5)
    for seed in range(20):
        varied = augment(view, np.random.default_rng(seed), how)
        x1, y1, x2, y2 = varied.window.astype(int)
        outside = np.ones((HEIGHT, WIDTH), bool)
        outside[y1:y2, x1:x2] = False
        assert not varied.image[outside].any()
        assert [a.dtype for a in varied] == [a.dtype for a in view]
        assert varied.image.shape == view.image.shape
    assert all(np.array_equal(a, b) for a, b in zip(view, kept, strict=True))


def test_equal_generators_give_equal_views_and_others_do_not():
    first, again, other = (augment(scene(), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert same(first, again)
    assert not np.array_equal(first.image, other.image)
    assert same(augment(scene(), np.random.default_rng(0), STILL), scene())


def test_mirrors_happen_half_the_time_each_on_its_own():
    how = Augmentation(mirror=0.5, tone=0.0, gradient=0.0, blur=0.0, noise=0.0)
    rng = np.random.default_rng(0)
    corners = [tuple(augment(scene(), rng, how).boxes[0, :2].tolist()) for _ in range(200)]
    assert set(corners) == {(10, 4), (70, 4), (10, 44), (70, 44)}
    assert all(30 <= corners.count(corner) <= 70 for corner in set(corners))


def test_no_objects():
    view = scene()
    empty = view._replace(boxes=np.zeros((0, 4), np.float32), masks=np.zeros((0, CELLS, CELLS), np.uint8))
    for seed in range(8):
        varied = augment(empty, np.random.default_rng(seed), Augmentation(shrink=0.5))
        assert varied.boxes.shape == (0, 4)
        assert varied.masks.shape == (0, CELLS, CELLS)
