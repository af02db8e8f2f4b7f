"""What fine-tuning keeps."""

import dataclasses

import numpy as np
from flax import nnx

from maskrcnn_jax.training.transfer import replace_classes
from tests.small import SMALL, small_model

THREE = ((0, "background"), (1, "crystal"), (2, "drop"))


def test_equal_count_keeps_every_weight():
    model = small_model(1)
    ours, said = replace_classes(model, ((0, "background"), (7, "salt")), rngs=nnx.Rngs(2))
    assert ours.config.classes == ((0, "background"), (7, "salt"))
    np.testing.assert_array_equal(ours.box_head.classes.kernel[...], model.box_head.classes.kernel[...])
    assert "salt" in said


def test_weights_of_a_class_follow_its_name():
    """Whatever the order: the outputs for a class are the same numbers as before."""
    three = small_model(1, dataclasses.replace(SMALL, classes=THREE))
    turned, _ = replace_classes(three, ((0, "background"), (1, "drop"), (2, "salt")), rngs=nnx.Rngs(2))
    for layer, width in (("box_head.classes", 1), ("box_head.deltas", 4), ("mask_head.masks", 1)):
        head, name = layer.split(".")
        for part in ("kernel", "bias"):
            before, after = (np.asarray(getattr(getattr(getattr(m, head), name), part)[...]) for m in (three, turned))
            blocks = [before[..., k * width : (k + 1) * width] for k in (0, 2, 1)]
            np.testing.assert_array_equal(after, np.concatenate(blocks, -1))
    np.testing.assert_array_equal(turned.rpn.deltas.kernel[...], three.rpn.deltas.kernel[...])
    twice = ((0, "background"), (1, "drop"), (2, "drop"))
    assert replace_classes(three, twice, rngs=nnx.Rngs(2))[0].config.classes == twice


def test_another_count_makes_class_outputs_anew_and_keeps_the_rest():
    model = small_model(1)
    ours, said = replace_classes(model, THREE, rngs=nnx.Rngs(2))
    assert ours.box_head.classes.kernel.shape[-1] == 3
    assert ours.box_head.deltas.kernel.shape[-1] == 12
    assert ours.mask_head.masks.kernel.shape[-1] == 3
    np.testing.assert_array_equal(ours.box_head.second.kernel[...], model.box_head.second.kernel[...])
    np.testing.assert_array_equal(ours.rpn.deltas.kernel[...], model.rpn.deltas.kernel[...])
    np.testing.assert_array_equal(ours.mask_head.double.kernel[...], model.mask_head.double.kernel[...])
    assert "2 -> 3" in said
    assert model.config == dataclasses.replace(SMALL)


def test_another_count_keeps_the_outputs_of_a_shared_name():
    """Crystals stay crystals when drops are no longer asked for; without a shared name the background is new, too."""
    three = small_model(1, dataclasses.replace(SMALL, classes=((0, "background"), (1, "drop"), (2, "crystal"))))
    ours, said = replace_classes(three, ((0, "background"), (5, "crystal")), rngs=nnx.Rngs(2))
    for layer, width in (("box_head.classes", 1), ("box_head.deltas", 4), ("mask_head.masks", 1)):
        head, name = layer.split(".")
        before, after = (np.asarray(getattr(getattr(m, head), name).kernel[...]) for m in (three, ours))
        blocks = [before[..., k * width : (k + 1) * width] for k in (0, 2)]
        np.testing.assert_array_equal(after, np.concatenate(blocks, -1))
    assert "new but for crystal (3 -> 2 classes)" in said
    salt, said = replace_classes(three, ((0, "background"), (1, "salt")), rngs=nnx.Rngs(2))
    before, after = (np.asarray(m.box_head.classes.kernel[...]) for m in (three, salt))
    assert not np.isclose(after[..., 0], before[..., 0]).any()
    assert "but for" not in said


def test_boxes_of_all_classes_together_are_kept_with_any_classes():
    head = dataclasses.replace(SMALL.roi.box_head, class_agnostic=True)
    config = dataclasses.replace(SMALL, roi=dataclasses.replace(SMALL.roi, box_head=head))
    model = small_model(1, config)
    for classes in (((0, "background"), (7, "salt")), THREE):
        ours, _ = replace_classes(model, classes, rngs=nnx.Rngs(2))
        np.testing.assert_array_equal(ours.box_head.deltas.kernel[...], model.box_head.deltas.kernel[...])
