"""Torchvision's state dicts: every stage, loss and gradient against torchvision 0.28 itself."""

import dataclasses
import hashlib
import re
import zlib
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import checkpoint, convert
from maskrcnn_jax.boxes.coding import encode
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.convert import torchvision
from maskrcnn_jax.convert.verify import compare
from maskrcnn_jax.roi.align import roi_align
from maskrcnn_jax.roi.targets import RoITargets
from maskrcnn_jax.rpn.targets import RPNTargets
from tests import recorded
from tests.compiler import FOR_LOOPS
from tests.maskrcnn_jax.convert.training_parity import NAMES, losses_and_gradients
from tests.weight_files import make_image, pytorch_weight, torchvision_layout, write_legacy, write_zip

LOSSES = ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")  # in the order of NAMES


def resized(height, width, seed, to_height):
    """As torchvision's transform resizes to 512 columns: bilinear, no antialiasing; values 0-255."""
    return cv2.resize(make_image(height, width, seed), (512, to_height), interpolation=cv2.INTER_LINEAR) * 255


def converted(folder):
    """The network that the peer was run with, by way of a file as torchvision writes it."""
    weights = {name: pytorch_weight(name, shape) for name, shape in torchvision_layout(101).items()}
    path = folder / "weights.of-any-name"
    write_zip(path, weights | {"backbone.body.bn1.num_batches_tracked": np.array(7)})
    return convert.load(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("torchvision"))


def test_the_files_hold_what_the_peers_were_run_with():
    digests = recorded.load("weight_digests")
    for name, shape, digest in zip(*(digests[f"pytorch{k}"] for k in ("_names", "_shapes", "")), strict=True):
        array = pytorch_weight(str(name), tuple(map(int, re.findall(r"\d+", str(shape)))))
        assert hashlib.sha256(array.tobytes()).hexdigest()[:16] == digest, name
    layout = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(torchvision_layout(101).items()))
    assert hashlib.sha1(layout.encode()).hexdigest() == str(digests["tv_layout"])


@pytest.mark.slow
def test_every_stage_of_inference(model):
    assert model.config == MaskRCNNConfig.torchvision_coco(101)
    rows = compare(model, recorded.network("torchvision_network", resized(400, 640, 11, 320)))
    assert {row.stage for row in rows} >= {
        *("c2", "c5", "p2", "p6", "objectness", "rpn_deltas", "class_logits", "box_deltas", "mask probabilities"),
        *("proposals, end to end", "detections, end to end"),
    }
    assert [row for row in rows if not row.passed] == []


# -- training: two images of 320x512 and 340x512, padded to 352x512 ----------------------------------------------------

SIZE = (352, 512)
HEIGHTS = {"a": 320, "b": 340}


def rpn_targets_of(golden, anchors):
    """The first of torchvision's positives and negatives, as its sampler drew them there."""
    parts = []
    for image in HEIGHTS:
        labels, truth = golden[f"{image}.rpn_labels"], golden[f"{image}.resized_gt"]
        positive = np.flatnonzero(labels == 1)[:128]
        drawn = np.concatenate([positive, np.flatnonzero(labels == 0)[: 256 - len(positive)]])
        nearest = np.asarray(iou(jnp.asarray(truth), jnp.asarray(anchors[drawn]))).argmax(0)
        deltas = encode(jnp.asarray(truth[nearest]), jnp.asarray(anchors[drawn]))
        parts.append((drawn, np.arange(256) < len(positive), np.ones(256, bool), deltas))
    return RPNTargets(*(jnp.stack([jnp.asarray(p) for p in column]) for column in zip(*parts, strict=True)))


@partial(jax.jit, compiler_options=FOR_LOOPS)
@jax.vmap
def _each_from_its_own(mask, box):
    # The largest positive RoI spans up to 9 pixels a bin, and the adaptive rule takes a sample for each.
    return roi_align(mask, box, output_size=28, sampling_ratio=0, aligned=False, max_samples=9)


def roi_targets_of(golden):
    """The recorded RoIs, positives first; mask targets by adaptive RoI Align of the full-size masks, in as many slots
    as the image with the most positives needs.
    """
    parts, slots = [], max(int((golden[f"{image}.sampled.labels"] > 0).sum()) for image in HEIGHTS)
    for image, height in HEIGHTS.items():
        labels, boxes = golden[f"{image}.sampled.labels"], golden[f"{image}.sampled.props"]
        order = np.argsort(labels == 0, kind="stable")
        labels, boxes, positive = labels[order], boxes[order], labels[order] > 0
        shape = golden[f"{image}.resized_masks_shape"]
        masks = np.unpackbits(golden[f"{image}.resized_masks_bits"])[: np.prod(shape)].reshape(shape)
        assert shape[1] == height
        own = golden[f"{image}.sampled.matched"][order][: positive.sum()]
        pooled = _each_from_its_own(
            jnp.asarray(masks[own, :, :, None], jnp.float32), jnp.asarray(boxes[: len(own), None])
        )
        target = np.zeros((slots, 28, 28), np.float32)
        target[: len(own)] = np.asarray(pooled)[:, 0, :, :, 0]
        deltas = golden[f"{image}.sampled.targets"][order] * positive[:, None]
        parts.append((boxes, labels.astype(np.int32), deltas, target, positive, np.ones(512, bool)))
    return RoITargets(*(jnp.stack([jnp.asarray(p) for p in column]) for column in zip(*parts, strict=True)))


def training_step(model, dtype=np.float32):
    """(losses, gradients) on the anchors and RoIs that were drawn there; `dtype` of the images."""
    golden = recorded.load("torchvision_training")
    # The stride of P6 is the padded height over its 6 rows there, 58 and not 64; a height of 352 is none of ours.
    anchors = model.anchors(*SIZE)
    first = len(anchors) - 6 * 8 * 3
    rows = np.repeat(np.arange(6), 8 * 3)
    anchors[first:, [1, 3]] += (rows * (SIZE[0] // 6 - 64))[:, None]
    images = np.zeros((2, *SIZE, 3), dtype)
    images[0, :320], images[1, :340] = resized(400, 640, 11, 320), resized(333, 500, 12, 340)
    windows = jnp.array([[0.0, 0.0, 512.0, height] for height in HEIGHTS.values()])
    return losses_and_gradients(model, images, windows, rpn_targets_of(golden, anchors), roi_targets_of(golden))


@pytest.fixture(scope="module")
def step(model):
    return training_step(model)


@pytest.mark.slow
def test_the_losses(step):
    golden = recorded.load("torchvision_training")
    for ours, theirs in zip(NAMES, LOSSES, strict=True):
        assert step[0][ours] == pytest.approx(float(golden[f"loss.loss_{theirs}"]), rel=1e-4), ours


@pytest.mark.slow
def test_all_gradients(step, model):
    """Norm, sum and largest value of each, and its projection on a random direction: every trained array there is.

    In float64 our norms are within 1e-4 of those that torchvision recorded in float32, but for one. Rounding leaves
    some ReLUs of the backbone on the other side of 0, there as here; which ones depends on the machine. So our norms in
    float32 are compared with those of float64: half of them agree within 5e-5, all but a few within 1e-4, and none is
    further off than twice that, as none of torchvision's is.
    """
    golden, exact = recorded.load("torchvision_training"), recorded.load("torchvision_exact_norms")
    exact = dict(zip(map(str, exact["names"]), exact["norms"], strict=True))  # by tests/exact_gradients.py
    theirs = dict(zip(map(str, golden["grad_names"]), golden["grads"], strict=True))
    wanted = {name: p.shape for name, p in checkpoint.named_parameters(model).items()}
    rules = torchvision.rules(wanted, model.config.backbone.depths, epsilon=1e-5)
    compared, theirs_off, ours_off = {}, {}, {}
    for rule in rules:
        if len(rule.targets) > 1:
            continue  # frozen norms
        (name, shape), ours = next(iter(rule.sources.items())), step[1][rule.targets[0]]
        direction = np.random.RandomState(zlib.crc32(f"proj:{name}".encode())).standard_normal(shape)
        (along,) = rule.make(direction)  # a permutation
        l2 = np.sqrt((ours**2).sum())
        compared[name] = np.array([l2, ours.sum(), np.abs(ours).max(), (along * ours).sum()])
        norm, truth = theirs[name][0], exact[rule.targets[0]]
        # The gradient of one layer is 0, there and here.
        theirs_off[name], ours_off[name] = (abs(value - truth) / max(truth, 1e-12) for value in (norm, l2))
        # Sums over numbers of both signs are measured by the norm; a projection tells where each number went, and a
        # flipped ReLU moves one of the backbone by 2e-3 of the norm. Heads, RPN and FPN have no such depth before them.
        along_bar = 1e-2 if name.startswith("backbone.body.") else 1e-3
        bars = norm * np.array([1e-4 * np.sqrt(ours.size), along_bar])
        assert (np.abs(compared[name] - theirs[name])[[1, 3]] <= bars).all(), name
        assert compared[name][2] == pytest.approx(theirs[name][2], rel=2e-3), name
    assert set(compared) == set(theirs)
    assert [name for name, off in theirs_off.items() if off > 1e-4] == ["backbone.body.layer3.7.conv1.weight"]
    flipped = [name for name, off in ours_off.items() if off > 1e-4]
    assert all(name.startswith("backbone.body.") for name in flipped)
    assert len(flipped) <= 5  # three, with XLA's convolutions on the CPU that this was written on
    assert max(ours_off.values()) <= (2e-4 if jax.__version__.startswith("0.10.") else 3e-4)  # 2.3e-4 with jax 0.12
    assert np.median(list(ours_off.values())) <= 5e-5


@pytest.mark.slow
def test_norms_of_gradients_by_the_kernels_for_cpus(model):
    """Each is within 1e-4 of the recorded norm or of the one in float64."""
    golden, exact = recorded.load("torchvision_training"), recorded.load("torchvision_exact_norms")
    exact = dict(zip(map(str, exact["names"]), exact["norms"], strict=True))
    theirs = dict(zip(map(str, golden["grad_names"]), golden["grads"], strict=True))
    config = dataclasses.replace(model.config, kernels="cpu")
    parameters = checkpoint.named_parameters(model)
    _, gradients = training_step(checkpoint.build(config, parameters, name="the model"))
    wanted = {name: p.shape for name, p in parameters.items()}
    for rule in torchvision.rules(wanted, config.backbone.depths, epsilon=1e-5):
        if len(rule.targets) == 1:  # the others are frozen norms
            name, target = next(iter(rule.sources)), rule.targets[0]
            l2, truth = np.sqrt((gradients[target] ** 2).sum()), exact[target]
            assert min(abs(l2 - theirs[name][0]), abs(l2 - truth)) <= 1e-4 * truth, name


def test_basic_blocks(tmp_path):
    """ResNet18: its blocks' layers under our names, and a map that goes through all of them."""
    arrays = {name: pytorch_weight(name, shape) for name, shape in torchvision_layout(18).items()}
    write_zip(tmp_path / "resnet18.pth", arrays)
    model = convert.load(tmp_path / "resnet18.pth")
    assert model.config == MaskRCNNConfig.torchvision_coco(18)
    block = model.backbone.stages[2].blocks[0]
    for ours, theirs in ((block.conv2, "conv2"), (block.shortcut.conv, "downsample.0")):
        weight = arrays[f"backbone.body.layer3.0.{theirs}.weight"]
        np.testing.assert_array_equal(ours.kernel[...], weight.transpose(2, 3, 1, 0))
    assert model.backbone.stages[0].blocks[0].shortcut is None
    assert checkpoint.named_shapes(MaskRCNNConfig.torchvision_coco(34))["fpn.laterals.3.kernel"].shape == (
        1,
        1,
        512,
        256,
    )


def test_the_file_of_2019_is_read_under_its_old_names(tmp_path):
    """ResNet50, the legacy format, names of 2019: the same network as today's file and names, but epsilon 0."""
    new = {name: pytorch_weight(name, shape) for name, shape in torchvision_layout(50).items()}
    old_names = list(torchvision_layout(50, old=True))
    assert len(old_names) == len(new)
    assert "rpn.head.conv.weight" in old_names
    write_legacy(tmp_path / "old.pth", dict(zip(old_names, new.values(), strict=True)))
    write_zip(tmp_path / "new.pth", new)
    old, today = convert.load(tmp_path / "old.pth"), convert.load(tmp_path / "new.pth", norm_epsilon=0.0)
    assert old.config == MaskRCNNConfig.torchvision_coco(50)
    for ours, theirs in zip(*(checkpoint.named_parameters(m).values() for m in (old, today)), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    variance = new["backbone.body.bn1.running_var"].astype(np.float64)
    for epsilon, model in ((0.0, old), (1e-5, convert.load(tmp_path / "new.pth"))):
        scale = new["backbone.body.bn1.weight"] / np.sqrt(variance + epsilon)
        np.testing.assert_array_equal(model.backbone.stem_norm.scale[...], scale.astype(np.float32))
    assert not any(np.isnan(array).any() for array in checkpoint.named_parameters(old).values())
