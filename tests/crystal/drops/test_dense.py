"""Dishes full of crystals: whole outlines, whatever lies on them, and nothing in the picture outlined that is none."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle_tools

from crystal.drops.stage import Stage
from crystal.drops.world import dense
from crystal.drops.world.dense import draw_dense

SIZE = {"height": 240, "width": 320}


@pytest.fixture(scope="module")
def pictures():
    return [draw_dense((3, seed), **SIZE) for seed in range(24)]


def test_equal_seeds_draw_equal_pictures_and_light_moves_nothing():
    first, again, dim = draw_dense(5, **SIZE), draw_dense(5, **SIZE), draw_dense(5, **SIZE, light=1.0)
    assert np.array_equal(first.image, again.image)
    assert first.instances == again.instances == dim.instances
    assert not np.array_equal(first.image, dim.image)
    assert draw_dense(6, **SIZE).instances != first.instances


def test_they_hold_crystals_alone_few_to_hundreds_solids_and_laths(pictures):
    counts = [len(picture.instances) for picture in pictures]
    assert min(counts) > 0
    assert max(counts) <= dense.MOST
    assert max(counts) > 4 * min(counts)
    objects = [one for picture in pictures for one in picture.instances]
    assert {one.category for one in objects} == {"crystal"}
    assert {*dense.HABITS, "lath"} == {one.kind for one in objects}
    assert 0 < np.mean([one.ignored for one in objects]) < 0.2
    assert all(rle_tools.area(one.mask) > 0 for one in objects)


def test_what_lies_under_others_keeps_its_whole_outline(pictures):
    """So masks overlap, and those of solids, which are convex, have no bites taken out of them."""
    overlapping, filled = 0, []
    for picture in pictures:
        masks = [rle_tools.decode(one.mask) for one in picture.instances]
        overlapping += int((np.sum(masks, 0) > 1).any())
        for mask, one in zip(masks, picture.instances, strict=True):
            if one.kind != "lath" and mask.sum() > 300:
                (contour,) = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
                filled.append(cv2.contourArea(contour) / cv2.contourArea(cv2.convexHull(contour)))
    assert overlapping > len(pictures) / 2
    assert min(filled) > 0.9, "a pixel's steps along a border"


def test_a_crystal_that_others_bury_is_ignored(monkeypatch):
    """Three of the same outline, each larger than the last, and one beside them."""
    rows = slice(20, 60)

    def laid(left, width):
        mask = np.ones((40, width), bool)
        return dense._Laid(rows, slice(left, left + width), mask, "plate", 0.3)

    monkeypatch.setattr(dense, "_strew", lambda *_: [laid(20, 40), laid(20, 36), laid(100, 30)])
    assert [one.ignored for one in draw_dense(0, **SIZE).instances] == [True, False, False]


@pytest.mark.parametrize("seed", range(6))
def test_a_lath_has_its_size_and_changes_the_light_in_its_mask(seed):
    """But for the blur of its edge."""
    shape = (300, 300)
    light = np.ones(shape, np.float32)
    stage = Stage(light, np.ones((75, 75, 3), np.float32), np.full(shape, dense.FAR, np.float32), False)
    laid = dense._lath(np.random.default_rng(seed), stage, np.array([150.0, 150.0]), 160.0, 24.0, 1.0)
    mask = np.zeros(shape, np.uint8)
    mask[laid.rows, laid.columns] = laid.mask
    _, (long, wide), _ = cv2.minAreaRect(np.argwhere(mask)[:, ::-1].astype(np.float32))
    assert max(long, wide) == pytest.approx(160, abs=24)  # its ends are cut at an angle
    assert min(long, wide) == pytest.approx(24, abs=2)
    around = cv2.dilate(mask, np.ones((25, 25)))
    assert np.abs(light - 1)[around == 0].max(initial=0) < 0.02
    assert laid.change == pytest.approx(np.abs(light - 1)[mask > 0].mean(), abs=1e-4)
    assert laid.change > dense.LEAST_CHANGE


def test_nothing_is_laid_outside_the_picture():
    shape = (60, 80)
    stage = Stage(np.ones(shape, np.float32), np.ones((15, 20, 3), np.float32), np.ones(shape, np.float32), False)
    rng, away = np.random.default_rng(0), np.array([-500.0, 30.0])
    assert dense._lath(rng, stage, away, 40.0, 8.0, 1.0) is None
    assert dense._solid(rng, stage, "plate", away, 30.0, 1.0) is None
    assert (stage.transmission == 1).all()


@pytest.mark.parametrize(("bad", "named"), [({"light": -1}, "light is -1"), ({"width": 40}, "give both or neither")])
def test_what_cannot_be_drawn_is_refused(bad, named):
    with pytest.raises(ValueError, match=named):
        draw_dense(0, **bad)
