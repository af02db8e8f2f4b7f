"""Scenes after real photographs: equal bytes, exact masks, every kind in sight, enough drops without crystals."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from crystal.drops.dataset import render_dataset
from crystal.drops.stage import Stage
from crystal.drops.world import camera, layer, needles, plates, solids
from crystal.drops.world.layer import Layer
from crystal.drops.world.liquid import pour, signed_distance
from crystal.drops.world.scene import CONTENTS, CRYSTALS, DIRT, Scene, SceneObject, draw_scene
from tests.otsu import average_precision, otsu_components

SHAPE = (240, 320)
SMALL: dict[str, Any] = {"height": 240, "width": 320}
SCALE = 0.25


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene((11, i), **SMALL) for i in range(220)]


def pixels(instance: SceneObject) -> np.ndarray:
    packed: Any = instance.mask  # pycocotools' own annotations know only one of the forms it takes
    return rle.decode(packed).astype(bool)


def masks(scene: Scene, category: str, *, ignored: bool | None = None) -> list[np.ndarray]:
    chosen = [o for o in scene.instances if o.category == category and ignored in (None, o.ignored)]
    return [pixels(o) for o in chosen]


def bare_stage(shape: tuple[int, int], radius: float) -> Stage:
    """A clear round drop in the middle of nothing."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = (np.hypot(x - shape[1] / 2, y - shape[0] / 2) < radius).astype(np.uint8)
    tint = np.ones((-(-shape[0] // 4), -(-shape[1] // 4), 3), np.float32)
    return Stage(np.ones(shape, np.float32), tint, signed_distance(inside), False)


# --- one scene --------------------------------------------------------------------------------------------------------


def test_equal_seeds_draw_equal_scenes_and_others_do_not():
    first, again, other = (draw_scene(seed, **SMALL) for seed in ((3, 1), (3, 1), (3, 2)))
    assert np.array_equal(first.image, again.image)
    assert (first.instances, first.features) == (again.instances, again.features)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(4))
def test_light_changes_the_picture_but_no_mask(seed):
    bright, dim = (draw_scene((5, seed), light=light, **SMALL) for light in (0.0, 1.0))
    assert bright.instances == dim.instances
    assert bright.image.mean() > dim.image.mean()


def test_sizes_are_those_of_cameras():
    sizes = {draw_scene((9, seed)).image.shape for seed in range(4)}
    assert len(sizes) > 1
    assert sizes <= {(*size, 3) for size in camera.SIZES}
    assert all(1.2 < width / height < 1.36 for height, width in camera.SIZES)
    assert draw_scene(1, height=200, width=300).image.shape == (200, 300, 3)


@pytest.mark.parametrize(("bad", "named"), [({"light": 1.5}, "1.5"), ({"height": 40}, "give both or neither")])
def test_what_cannot_be_drawn_is_refused(bad, named):
    with pytest.raises(ValueError, match=named):
        draw_scene(0, **bad)
    with pytest.raises(ValueError, match="unknown kind of plate 'oval'; choose one of moulded"):
        plates.draw_plate(np.random.default_rng(0), SHAPE, SCALE, "oval")


# --- what is in sight -------------------------------------------------------------------------------------------------


def test_everything_is_drawn_now_and_then(scenes):
    seen = Counter(feature for scene in scenes for feature in scene.features)
    styles = ("grey", "tinted", "polarised", "plate marks", "burnt in")
    expected = {*plates.KINDS, *CRYSTALS, *CONTENTS, *DIRT, *styles}
    assert expected - set(seen) == set()
    kinds = {o.kind for scene in scenes for o in scene.instances}
    assert kinds == {*solids.HABITS, "needle", "lath", "thin plate", "drop", "satellite"}


def test_drops_without_crystals_are_at_least_a_third(scenes):
    with_drops = [scene for scene in scenes if masks(scene, "drop")]
    empty = np.mean([not masks(scene, "crystal") for scene in with_drops])
    assert 1 / 3 <= empty < 0.6


def test_fields_and_one_to_three_drops_are_seen(scenes):
    numbers = Counter(len(masks(scene, "drop", ignored=False)) for scene in scenes)
    assert {0, 1, 2, 3} <= set(numbers)
    assert 0.04 < numbers[0] / len(scenes) < 0.2
    assert numbers[1] > 0.6 * len(scenes)
    fields = [scene for scene in scenes if "field" in scene.features]
    assert not any(masks(scene, "drop") for scene in fields)
    assert any(masks(scene, "crystal") for scene in fields)
    assert any(not masks(scene, "crystal") for scene in fields)


def test_showers_hold_many_crystals(scenes):
    numbers = [len(masks(scene, "crystal")) for scene in scenes if "shower" in scene.features]
    assert 30 < max(numbers) <= 400


def test_a_threshold_does_not_find_the_crystals(scenes):
    scores = []
    for scene in scenes:
        truth = masks(scene, "crystal", ignored=False)
        if truth:
            ways = (cv2.THRESH_BINARY, cv2.THRESH_BINARY_INV)
            scores.append(max(average_precision(truth, otsu_components(scene.image, way)) for way in ways))
    assert len(scores) > 50
    assert np.mean(scores) < 0.25


# --- masks ------------------------------------------------------------------------------------------------------------


def test_each_pixel_belongs_to_one_crystal_and_to_one_drop(scenes):
    for scene in scenes:
        for category in ("crystal", "drop"):
            found = masks(scene, category)
            assert all(mask.any() for mask in found)
            assert np.sum(found, axis=0).max(initial=0) <= 1


def test_crystals_lie_in_drops_where_there_are_any(scenes):
    for scene in scenes:
        drops, crystals = masks(scene, "drop"), masks(scene, "crystal")
        if drops and crystals:
            assert not (np.any(crystals, axis=0) & ~np.any(drops, axis=0)).any()


@pytest.mark.parametrize("seed", range(8))
def test_a_drop_changes_the_light_in_its_mask_and_up_to_its_edge(seed):
    rng = np.random.default_rng(seed)
    plate = plates.draw_plate(rng, SHAPE, 1.0, "field")
    light = plate.transmission.copy()
    drop = pour(rng, light, plate, 1.0, np.array([160.0, 120]), 60.0, np.zeros(SHAPE, bool))
    assert drop is not None
    assert np.array_equal(drop.mask, drop.distance > 0)
    change = np.abs(light - 1)
    assert change[drop.distance < -12].max(initial=0) < 1e-3  # the halo and the blur end there
    assert change[np.abs(drop.distance) < 2].mean() > 0.02
    taken = pour(rng, light, plate, 1.0, np.array([150.0, 110]), 60.0, drop.mask)
    assert taken is None


def test_a_drop_ends_at_a_black_wall_or_shows_through_it():
    climbs, brighter = set(), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        plate = plates.draw_plate(rng, SHAPE, SCALE, "square")
        light = plate.transmission.copy()
        edge = plate.centre + np.array([plate.radius, 0])
        drop = pour(rng, light, plate, SCALE, edge, 40.0, np.zeros(SHAPE, bool))
        assert drop is not None
        beyond = drop.mask & (plate.distance < 0)
        climbs.add(bool(beyond.any()))
        brighter += (light[beyond] > plate.transmission[beyond]).tolist()
    assert climbs == {True, False}
    assert np.mean(brighter) > 0.4


@pytest.mark.parametrize("name", [name for name in CRYSTALS if name != "clumps"])  # their brown clouds reach further
def test_crystals_change_the_light_in_their_masks_only(name):
    for seed in range(3):
        stage = bare_stage((480, 640), 200)
        laid = Layer(stage.transmission, 0.5)
        CRYSTALS[name][0](np.random.default_rng(seed), stage, laid, 0.5)
        inside = np.zeros((480, 640), np.uint8)
        for crystal in laid.crystals():
            height, width = crystal.patch.shape
            part = inside[crystal.top : crystal.top + height, crystal.left : crystal.left + width]
            assert not part[crystal.patch].any()
            part[crystal.patch] = 1
        changed = np.abs(stage.transmission - 1) > 0.03
        assert changed.any()
        near = cv2.dilate(inside, np.ones((9, 9), np.uint8)).astype(bool)
        assert (changed & ~near).sum() < 0.03 * changed.sum()
        assert not changed[stage.drop <= 0].any()


def test_the_one_on_top_owns_the_pixel_and_what_cannot_be_outlined_is_doubtful():
    light = np.ones((80, 80), np.float32)
    laid = Layer(light, 1.0)
    place, square, dark = (slice(10, 30), slice(10, 30)), np.ones((20, 20), bool), np.full((20, 20), 0.5, np.float32)
    laid.lay(*place, square, dark, "plate")
    assert light[10:30, 10:30].max() == 0.5
    laid.lay(slice(10, 30), slice(20, 40), square, dark, "block")
    first, second = laid.crystals()
    assert (first.kind, first.patch.sum(), first.doubtful) == ("plate", 200, False)
    assert (second.kind, second.patch.sum(), second.doubtful) == ("block", 400, False)
    assert (second.top, second.left) == (10, 20)
    laid.lay(slice(10, 30), slice(14, 34), square, dark, "block")  # leaves a fifth of the first
    laid.lay(slice(50, 70), slice(10, 30), square, dark * 0 + 0.995, "faint")
    laid.lay(slice(50, 70), slice(40, 60), square, dark, "blurred", blur=2 * layer.MOST_BLUR)
    tiny = np.zeros((20, 20), bool)
    tiny[:4, :4] = True
    laid.lay(slice(35, 55), slice(60, 80), tiny, dark, "tiny")
    doubtful = {crystal.kind: crystal.doubtful for crystal in laid.crystals()}
    assert doubtful == {"plate": True, "block": False, "faint": True, "blurred": True, "tiny": True}


def test_needles_are_three_to_six_pixels_wide_at_1280():
    """At one end; they taper to a tenth of it at most, and the mean along the needle is measured."""
    widths = []
    for seed in range(6):
        stage = bare_stage((960, 1280), 440)
        laid = Layer(stage.transmission, 1.0)
        needles.lay_needles(np.random.default_rng(seed), stage, laid, 1.0)
        for crystal in laid.crystals():
            (_, size, _) = cv2.minAreaRect(np.argwhere(crystal.patch).astype(np.float32))
            if crystal.kind == "needle" and max(size) > 30:
                widths.append(crystal.patch.sum() / max(size))
    assert len(widths) > 30
    assert np.percentile(widths, 5) > 1.2
    assert np.percentile(widths, 95) < 6


@pytest.mark.parametrize("turn", [0.0, 0.3, 0.8, 1.5])
def test_the_mask_of_a_needle_has_its_area(turn):
    """Pixels that the outline only touches are not part of it."""
    stage = bare_stage(SHAPE, 110)
    laid = Layer(stage.transmission, SCALE)
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    start = np.array([SHAPE[1], SHAPE[0]]) / 2 - 30 * along
    corners = np.array([start - 2 * across, start + 60 * along - 2 * across, start + 60 * along + 2 * across])
    corners = np.concatenate([corners, [start + 2 * across]])
    needle = needles.Flat(corners, corners, "needle", (0.5, 0.0, 0.0), 1.0, 0.5)
    needles._lay_flat(np.random.default_rng(0), stage, laid, needle)
    (crystal,) = laid.crystals()
    assert crystal.patch.sum() == pytest.approx(60 * 4, rel=0.06)


# --- a data set -------------------------------------------------------------------------------------------------------


def test_a_world_as_a_dataset_has_two_categories_and_the_same_bytes_with_any_workers(tmp_path: Path):
    for name, workers in (("a", 1), ("b", 2)):
        render_dataset(tmp_path / name, train=4, val=1, seed=2, workers=workers, **SMALL)
    first, second = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in "ab"
    )
    assert first == second
    coco = COCO(str(tmp_path / "a" / "train.json"))
    assert json.loads((tmp_path / "a" / "train.json").read_text())["info"]["scenes"] == "world"
    assert [category["name"] for category in coco.dataset["categories"]] == ["crystal", "drop"]
    for number in coco.imgs:
        scene = draw_scene((2, 0, number - 1), **SMALL)
        for annotation, instance in zip(coco.loadAnns(coco.getAnnIds(number)), scene.instances, strict=True):
            assert coco.cats[annotation["category_id"]]["name"] == instance.category
            assert annotation["iscrowd"] == instance.ignored
            decoded, mask = coco.annToMask(annotation).astype(bool), pixels(instance)
            assert (decoded & mask).sum() >= 0.97 * (decoded | mask).sum()
    labels = {
        shape["label"] for path in tmp_path.rglob("images/*.json") for shape in json.loads(path.read_text())["shapes"]
    }
    assert labels == {"crystal", "drop"}
