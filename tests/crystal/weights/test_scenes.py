"""Scenes of ordinary shapes, and that they stay apart from the painters of drops."""

import ast
import inspect

import numpy as np
import pytest

from crystal.weights import pretrain
from crystal.weights import scenes as shapes
from crystal.weights.scenes import draw_scene


def test_the_same_seed_draws_the_same():
    first, again, other = draw_scene((1, 2)), draw_scene((1, 2)), draw_scene((1, 3))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert (first.image != other.image).any()


@pytest.mark.parametrize("seed", range(8))
def test_masks_are_disjoint_and_no_object_is_hidden_without_being_a_crowd(seed):
    scene = draw_scene((4, seed), height=96, width=128)
    assert scene.image.shape == (96, 128, 3)
    assert scene.image.dtype == np.uint8
    assert scene.masks.sum(0).max(initial=0) <= 1
    sizes = scene.masks.sum((1, 2))
    assert (sizes[~scene.crowd] >= shapes.LEAST_PIXELS).all()


@pytest.mark.parametrize("module", [shapes, pretrain])
def test_nothing_is_shared_with_the_painters_of_drops(module):
    imported = {
        node.module for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.ImportFrom)
    }
    assert not [name for name in imported if name and name.startswith("crystal.drops")]


def test_scenes_are_written_as_a_dataset(tmp_path):
    from crystal.data.dataset import load_split
    from crystal.data.segmentation import draw_pixels

    pretrain.write_scenes(tmp_path / "scenes", 2, seed=5)
    split = load_split(tmp_path / "scenes", "train")
    assert not split.problems
    scene = draw_scene((5, 0))
    record = split.records[0]
    assert len(record.instances) == len(scene.masks)
    for instance, mask, crowd in zip(record.instances, scene.masks, scene.crowd, strict=True):
        np.testing.assert_array_equal(
            draw_pixels(instance.segmentation, record.height, record.width).astype(bool), mask
        )
        assert instance.crowd == crowd
