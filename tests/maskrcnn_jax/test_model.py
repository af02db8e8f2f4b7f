import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax.config import BackboneConfig, BoxHeadConfig, MaskHeadConfig, MaskRCNNConfig, RPNTargetConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth

SIZE = (64, 128)
G = 3


@cache
def small_config() -> MaskRCNNConfig:
    """`tiny()`, smaller still: one block a stage, few channels and slots; three classes."""
    tiny = MaskRCNNConfig.tiny()
    return dataclasses.replace(
        tiny,
        classes=((0, "background"), (1, "plate"), (2, "needle")),
        backbone=BackboneConfig(
            block="basic", depths=(1, 1, 1, 1), channels=(8, 8, 16, 16), stem="space_to_depth", stem_channels=8,
            norm="group", group_size=4, stride_on="3x3",
        ),
        fpn_channels=8,
        rpn=dataclasses.replace(
            tiny.rpn,
            channels=8,
            targets=RPNTargetConfig(samples=32, max_positive=16),
            proposals=dataclasses.replace(tiny.rpn.proposals, before_nms=(60, 50), after_nms=(40, 30)),
        ),
        roi=dataclasses.replace(
            tiny.roi,
            box_head=BoxHeadConfig(hidden=16),
            mask_head=MaskHeadConfig(channels=8, layers=1),
            targets=dataclasses.replace(tiny.roi.targets, samples=12, max_positive=6),
        ),
        detection=dataclasses.replace(tiny.detection, candidates=40, max_detections=10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    """Random weights by NumPy: compiling the initialisation of every layer would take longer than all else."""
    graph, state = nnx.split(nnx.eval_shape(lambda: MaskRCNN(small_config(), rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = str(path[-2].key)
        if name == "kernel":
            spread = (1 / np.prod(leaf.shape[:-1])) ** 0.5
            return jnp.float32(spread * rng.normal(size=leaf.shape))
        return jnp.full(leaf.shape, 1.0 if name == "scale" else 0.0)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))


class Traced:
    """A jitted function that counts how often it was traced."""

    def __init__(self, function):
        self.count = 0

        def counted(*args):
            self.count += 1
            return function(*args)

        self.jitted = nnx.jit(counted)

    def __call__(self, *args):
        return self.jitted(*args)


stages = Traced(lambda model, images, windows: model.stages(images, windows))


def _losses(model, images, truth, key, shares):
    losses = model.losses(images, truth, key)
    return jnp.dot(shares, jnp.stack(losses)), losses


_traced = Traced(nnx.value_and_grad(_losses, has_aux=True))
TOTAL, SECOND_STAGE = np.float32([0, 0, 0, 0, 0, 1]), np.float32([0, 0, 1, 1, 1, 0])


def losses_and_gradients(model, images, truth, key, shares=TOTAL):
    """((the losses times `shares`, all losses), gradients of the former)."""
    return _traced(model, images, truth, key, shares)


EVERYTHING = jnp.array([[0.0, 0.0, 128.0, 64.0]] * 2)


def images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)


def truth(objects=2, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (2, G, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 24, (2, G, 2))], -1)
    return GroundTruth(
        boxes=jnp.float32(boxes),
        classes=jnp.asarray(rng.integers(1, 3, (2, G))),
        masks=jnp.asarray(rng.integers(0, 2, (2, G, 28, 28)).astype(np.uint8)),
        valid=jnp.asarray(np.arange(G) < np.array([[objects], [max(objects - 1, 0)]])),
        crowd=jnp.zeros((2, G), bool),
    )


# -- the whole, at inference -------------------------------------------------------------------------------------------


def test_names_and_shapes_of_the_stages(model):
    s = stages(model, images(), EVERYTHING)
    shapes = {name: value.shape for name, value in s._asdict().items() if hasattr(value, "shape")}
    cells = [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]
    a = 3 * sum(h * w for h, w in cells)
    expected = {f"c{i + 2}": (2, *cell, c) for i, (cell, c) in enumerate(zip(cells[:4], (8, 8, 16, 16), strict=True))}
    expected |= {f"p{i + 2}": (2, *cell, 8) for i, cell in enumerate(cells)} | {"c1": (2, 32, 64, 8)}
    expected |= {"objectness": (2, a), "rpn_deltas": (2, a, 4), "anchors": (a, 4)}
    assert shapes == expected | {"class_logits": (2, 30, 3), "box_deltas": (2, 30, 3, 4)}
    assert [v.shape for v in s.proposals] == [(2, 30, 4), (2, 30), (2, 30)]
    assert [v.shape for v in s.detections] == [(2, 10, 4), (2, 10), (2, 10), (2, 10, 28, 28), (2, 10)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(s))


@pytest.mark.parametrize(
    "preset",
    [
        MaskRCNNConfig.paper,
        MaskRCNNConfig.matterport_coco,
        MaskRCNNConfig.torchvision_coco,
        MaskRCNNConfig.detectron2_coco,
    ],
)
def test_every_preset_fits_together(preset):
    """Shapes only: nothing is computed. Two blocks a stage: all after the first are alike."""
    config = preset()
    config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, depths=(2, 2, 2, 2)))
    model = nnx.eval_shape(lambda: MaskRCNN(config, rngs=nnx.Rngs(0)))
    pixels = jnp.zeros((2, 128, 64, 3), jnp.uint8)
    s, losses = nnx.eval_shape(
        lambda model, truth: (model.stages(pixels), model.losses(pixels, truth, jax.random.key(0))), model, truth()
    )
    count, k = config.rpn.proposals.after_nms[1], config.num_classes
    assert s.class_logits.shape == (2, count, k)
    assert s.detections.masks.shape == (2, 100, 28, 28)
    assert all(loss.shape == () and loss.dtype == jnp.float32 for loss in losses)


def test_detections_are_what_the_stages_say(model):
    """Of an image as it comes, uint8; masks are probabilities, classes never background."""
    s = stages(model, images(), EVERYTHING)
    detections = nnx.jit(lambda model, images: model.detect(images))(model, images())
    for a, b in zip(detections, s.detections, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert detections.valid.any()
    assert set(np.asarray(detections.classes)[np.asarray(detections.valid)].tolist()) <= {1, 2}
    assert (detections.masks >= 0).all()
    assert (detections.masks <= 1).all()
    assert (np.diff(detections.scores) <= 0).all()


def test_nothing_lies_outside_the_window_and_padding_is_not_seen(model):
    windows = jnp.array([[0.0, 9.0, 100.0, 50.0], [20.5, 0.0, 128.0, 64.0]])
    batch = images()
    s = stages(model, batch, windows)
    for found in (s.proposals, s.detections):
        assert found.valid.any()
        for b in range(2):
            boxes = np.asarray(found.boxes[b])[np.asarray(found.valid[b])]
            assert (boxes[:, :2] >= windows[b, :2]).all()
            assert (boxes[:, 2:] <= windows[b, 2:]).all()
    batch[0, 50:] = 200  # the padding of this preset is the mean colour, whatever stands there
    batch[1, :, :20] = 0
    np.testing.assert_array_equal(stages(model, batch, windows).p2, s.p2)


def test_images_of_a_batch_do_not_see_each_other(model):
    s, swapped = stages(model, images(), EVERYTHING), stages(model, images()[::-1].copy(), EVERYTHING)
    np.testing.assert_allclose(s.objectness, swapped.objectness[::-1], atol=1e-5)
    np.testing.assert_allclose(s.class_logits, swapped.class_logits[::-1], atol=1e-4)
    np.testing.assert_allclose(s.detections.boxes, swapped.detections.boxes[::-1], atol=1e-2)


def test_a_far_edge_comes_back():
    """`far_edge` pixels go in and come out again: anchors are proposed where they lie, though clipped to the window."""
    rpn = small_config().rpn
    rule = dataclasses.replace(rpn.proposals, nms_iou=1.0, after_nms=(40, 200), before_nms=(200, 200))
    config = dataclasses.replace(small_config(), far_edge=1, rpn=dataclasses.replace(rpn, proposals=rule))
    model = nnx.eval_shape(lambda: MaskRCNN(config, rngs=nnx.Rngs(0)))  # no weights are needed
    anchors = model.anchors(*SIZE)
    found = jax.jit(partial(model.propose, size=SIZE))(
        jnp.zeros((1, len(anchors))), jnp.zeros((1, len(anchors), 4)), EVERYTHING[:1]
    )
    boxes = np.asarray(found.boxes[0])[np.asarray(found.valid[0])]
    clipped = np.clip(anchors, 0, [128, 64, 128, 64])
    distance = np.abs(boxes[:, None] - clipped[None]).max(-1).min(1)
    assert distance.max() < 1e-3
    assert boxes.max() == 128


# -- the losses --------------------------------------------------------------------------------------------------------


def test_losses_and_gradients_are_finite_and_add_up(model):
    (total, losses), gradients = losses_and_gradients(model, images(), truth(), jax.random.key(0))
    assert all(np.isfinite(loss) and loss > 0 for loss in losses)
    np.testing.assert_allclose(total, sum(losses[:5]), rtol=1e-6)
    flat = {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(gradients)}
    assert all(np.isfinite(leaf).all() for leaf in flat.values())
    for part in ("backbone.stem", "fpn", "rpn.shared", "box_head.first", "mask_head.double"):
        assert any(leaf.any() for name, leaf in flat.items() if name.startswith(part)), part


def test_no_objects_at_all(model):
    (_, losses), gradients = losses_and_gradients(model, images(), truth(0), jax.random.key(0))
    assert all(np.isfinite(loss) for loss in losses)
    assert losses.rpn_box == losses.roi_box == losses.roi_mask == 0
    assert losses.rpn_class > 0
    assert losses.roi_class > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("objects", [0, 1, 2])
def test_what_stands_in_padded_slots_changes_no_loss_and_no_gradient(model, objects):
    t = truth(objects)
    slot = ~t.valid
    other = GroundTruth(
        boxes=jnp.where(slot[..., None], jnp.array([900.0, -50.0, 1.0, 1e4]), t.boxes),
        classes=jnp.where(slot, 77, t.classes),
        masks=jnp.where(slot[..., None, None], 255, t.masks).astype(jnp.uint8),
        valid=t.valid,
        crowd=slot,
    )
    a, b = (losses_and_gradients(model, images(), each, jax.random.key(3)) for each in (t, other))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_key_decides_the_draw_and_nothing_else_does(model):
    totals = [float(losses_and_gradients(model, images(), truth(), jax.random.key(k))[0][0]) for k in (0, 0, 1)]
    assert totals[0] == totals[1] != totals[2]


def test_heads_do_not_move_the_proposals(model):
    """The second stage's losses leave the RPN's two last layers without a gradient, but not the features."""
    _, gradients = losses_and_gradients(model, images(), truth(), jax.random.key(0), SECOND_STAGE)
    for layer in (gradients["rpn"]["deltas"], gradients["rpn"]["objectness"]):
        assert not any(leaf.any() for leaf in jax.tree.leaves(layer))
    assert any(leaf.any() for leaf in jax.tree.leaves(gradients["backbone"]))


def test_one_trace_for_all_contents(model):
    """Counted over all the calls above and two more."""
    for seed in (5, 6):
        stages(model, images(seed), EVERYTHING - seed)
        losses_and_gradients(model, images(seed), truth(seed - 4, seed), jax.random.key(seed))
    assert stages.count == 1
    assert _traced.count == 1
