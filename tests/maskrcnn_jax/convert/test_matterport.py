"""Matterport's h5: every stage, loss and gradient against the program itself (Keras 2.2.4, TensorFlow 1.13.1)."""

import hashlib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import convert
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.convert import verify
from maskrcnn_jax.convert.table import ConversionError
from maskrcnn_jax.convert.verify import compare
from maskrcnn_jax.roi.align import assign_levels
from maskrcnn_jax.roi.targets import RoITargets
from maskrcnn_jax.rpn.targets import RPNTargets
from tests import recorded
from tests.compiler import FOR_LOOPS
from tests.maskrcnn_jax.convert.training_parity import losses_and_gradients
from tests.weight_files import matterport_layout, matterport_weight, write_h5

EPSILON = 1e-3


@pytest.fixture(scope="module")
def weights():
    return {name: matterport_weight(name, shape) for name, shape in matterport_layout().items()}


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("matterport") / "weights.of-any-name"
    write_h5(path, weights)
    return convert.load(path)


def test_the_file_holds_what_the_peer_was_run_with(weights):
    digests = "".join(f"{n} {hashlib.sha1(a.tobytes()).hexdigest()}\n" for n, a in sorted(weights.items()))
    assert len(weights) == 690
    assert sum(a.size for a in weights.values()) == 64_158_584
    assert hashlib.sha1(digests.encode()).hexdigest() == str(recorded.load("weight_digests")["matterport"])


@pytest.mark.slow
def test_every_stage_of_inference(model, monkeypatch):
    half_optimised = jax.jit(verify._run.__wrapped__, static_argnums=(0, 1, 2), compiler_options=FOR_LOOPS)
    monkeypatch.setattr(verify, "_run", half_optimised)
    assert model.config == MaskRCNNConfig.matterport_coco()
    rows = compare(model, recorded.network("matterport_network"))
    assert {row.stage for row in rows} >= {
        *("c2", "c5", "p2", "p6", "objectness", "rpn_deltas", "class_logits", "box_deltas", "mask probabilities"),
        *("proposals from the recorded outputs of the RPN", "proposals, end to end", "detections, end to end"),
    }
    assert [row for row in rows if not row.passed] == []


@pytest.fixture(scope="module")
def step(model):
    """(losses, gradients) on the anchors and RoIs that were drawn there."""
    golden = recorded.load("matterport_training")
    image = np.cumsum(golden["image.differences"], axis=1, dtype=np.uint8)
    drawn = np.flatnonzero(golden["rpn_match"])
    positive = golden["rpn_match"][drawn] == 1
    deltas = np.zeros((len(drawn), 4))
    deltas[positive] = recorded.xyxy(golden["rpn_bbox_target"])[: positive.sum()]
    for_rpn = RPNTargets(*(jnp.asarray(a)[None] for a in (drawn, positive, np.ones_like(positive), deltas)))

    classes = golden["target_class_ids"]
    count = int((classes > 0).sum())
    assert (classes[:count] > 0).all()
    masks = np.unpackbits(golden["target_mask"])[: np.prod(golden["target_mask_shape"])]
    for_heads = RoITargets(
        boxes=recorded.xyxy(golden["sampled_rois"]) * 255 + np.array([0, 0, 1, 1]),
        classes=classes,
        deltas=recorded.xyxy(golden["target_bbox"]),
        masks=masks.reshape(golden["target_mask_shape"])[:count].astype(np.float32),
        positive=classes > 0,
        valid=np.ones(len(classes), bool),
    )
    to_jax = {np.dtype(np.float64): jnp.float32}
    for_heads = RoITargets(*(jnp.asarray(a, to_jax.get(a.dtype, a.dtype))[None] for a in for_heads))
    for_rpn = for_rpn._replace(deltas=for_rpn.deltas.astype(jnp.float32))
    at_border = {bins: border_nudges(golden["sampled_rois"], model, bins=bins) for bins in (7, 14)}
    class_boxes = for_heads.boxes + at_border[7]
    for_heads = for_heads._replace(boxes=for_heads.boxes + at_border[14])
    windows = jnp.array([[0.0, 0.0, 256.0, 256.0]])
    return losses_and_gradients(model, jnp.asarray(image)[None], windows, for_rpn, for_heads, class_boxes)


def border_nudges(rois, model, *, bins):
    """[r, 4] pixels that put the last samples of RoIs at the far border where TensorFlow put them: a hair inside, or,
    where its float32 sums came out an ulp beyond the last cell, a hair outside, where they read 0.
    """
    levels = np.asarray(
        assign_levels(
            jnp.asarray(recorded.xyxy(rois)) * 256,
            canonical_size=model.config.roi.levels.canonical_size,
            rounding=model.config.roi.levels.rounding,
        )
    )
    span = (256 / 2.0**levels - 1).astype(np.float32)[:, None]
    low, high = rois[:, :2], rois[:, 2:]
    step = (high - low) * span / np.float32(bins - 1)
    lost = low * span + np.float32(bins - 1) * step > span
    far = np.where(high >= 1, np.where(lost, 2e-4, -2e-4), 0.0)[:, ::-1]
    assert (lost & (high >= 1)).sum() == {7: 1, 14: 0}[bins]
    return np.concatenate([np.zeros_like(far), far], 1).astype(np.float32)


@pytest.mark.slow
def test_the_losses(step):
    np.testing.assert_allclose(list(step[0].values()), recorded.load("matterport_training")["losses"], rtol=1e-4)


def l2(array):
    return float(np.sqrt((np.asarray(array, np.float64) ** 2).sum()))


@pytest.mark.slow
def test_gradients_of_the_heads(step, weights):
    """All parameters of both heads and of the RPN's objectness, through the folding where they were folded.

    The gradient of the box loss also reaches the proposals there, through the targets (and so `rpn_bbox_pred`, the
    RPN's shared layer, FPN and backbone), where ours is stopped: those differ by design and are compared with
    torchvision, which stops it too.
    """
    golden = recorded.load("matterport_training")
    theirs = {str(n).removesuffix(":0"): v for n, v in zip(golden["grad_names"], golden["grad_l2"], strict=True)}
    ours = step[1]
    plain = {
        "mrcnn_class_logits": "box_head.classes",
        "mrcnn_bbox_fc": "box_head.deltas",
        "mrcnn_mask_deconv": "mask_head.double",
        "mrcnn_mask": "mask_head.masks",
    }
    norms = {f"{t}/{part}": l2(ours[f"{o}.{part}"]) for t, o in plain.items() for part in ("kernel", "bias")}
    for part in ("kernel", "bias"):  # foreground minus background: each gets the gradient, one with the other sign
        norms[f"rpn_class_raw/{part}"] = np.sqrt(2) * l2(ours[f"rpn.objectness.{part}"])

    folded = {f"mrcnn_mask_conv{i + 1}": (f"mask_head.convs.{i}", f"mrcnn_mask_bn{i + 1}") for i in range(4)}
    folded |= {
        f"mrcnn_class_conv{i}": (f"box_head.{n}", f"mrcnn_class_bn{i}") for i, n in ((1, "first"), (2, "second"))
    }
    for conv, (target, norm) in folded.items():
        kernel, bias = (weights[f"{conv}/{part}"].astype(np.float64) for part in ("kernel", "bias"))
        root = np.sqrt(weights[f"{norm}/moving_variance"].astype(np.float64) + EPSILON)
        scale = weights[f"{norm}/gamma"] / root
        d_kernel, d_bias = ours[f"{target}.kernel"].reshape(kernel.shape), ours[f"{target}.bias"]
        along = tuple(range(kernel.ndim - 1))
        norms[f"{conv}/kernel"], norms[f"{conv}/bias"] = l2(d_kernel * scale), l2(d_bias * scale)
        norms[f"{norm}/beta"] = l2(d_bias)
        norms[f"{norm}/gamma"] = l2(
            ((d_kernel * kernel).sum(along) + d_bias * (bias - weights[f"{norm}/moving_mean"])) / root
        )
    missing = set(norms) - set(theirs)
    assert not missing, f"names in the golden: {list(theirs)[:8]}"
    assert len(norms) == 10 + 6 * 4
    for name, norm in norms.items():
        assert norm == pytest.approx(theirs[name], rel=1e-4), name


def test_a_link_in_the_file_is_refused(tmp_path):
    """One that leads into another file, and one that leads round in a circle."""
    path = tmp_path / "weights.h5"
    for link in (h5py.ExternalLink("/etc/passwd", "/"), h5py.SoftLink("/mrcnn_mask")):
        with h5py.File(path, "w") as file:
            file.create_group("mrcnn_mask")["mrcnn_mask"] = link
        with pytest.raises(ConversionError, match=r"weights\.h5: mrcnn_mask/mrcnn_mask is a link"):
            convert.load(path)


def test_numbers_that_lie_in_another_file_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        group = file.create_group("mrcnn_mask/mrcnn_mask")
        group.create_dataset("bias:0", (16,), "f4", external=[(str(tmp_path / "secret"), 0, 64)])
    with pytest.raises(ConversionError, match="refers to another file"):
        convert.load(tmp_path / "weights.h5")


def test_a_whole_saved_model_is_read_as_well(tmp_path):
    """`model.save` puts the weights under model_weights, beside the optimizer's; here only names and shapes matter."""
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.create_group("optimizer_weights")["iteration:0"] = 3
        for name, shape in matterport_layout().items():
            layer = name.split("/")[0]
            file.create_dataset(f"model_weights/{layer}/{name}:0", shape, "f4", fillvalue=1.0)
    model = convert.load(tmp_path / "model.h5")
    np.testing.assert_allclose(model.backbone.stem_norm.scale[...], 1 / np.sqrt(1 + EPSILON), rtol=1e-6)
    assert float(jnp.abs(model.rpn.objectness.kernel[...]).max()) == 0.0  # foreground less background
