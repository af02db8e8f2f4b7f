from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.roi.loss import roi_losses
from maskrcnn_jax.roi.targets import RoITargets
from tests import oracles, recorded
from tests.traced import assert_jit_changes_nothing

B, R, Q, M, K = 2, 7, 3, 4, 5
RULES = {
    "matterport": MaskRCNNConfig.matterport_coco().roi.loss,
    "torchvision": MaskRCNNConfig.torchvision_coco().roi.loss,
    "detectron2": MaskRCNNConfig.detectron2_coco().roi.loss,
}
JITTED = {name: jax.jit(partial(roi_losses, config=rule)) for name, rule in RULES.items()}


def some_case(seed=0, positives=(3, 1), drawn=(7, 4)):
    rng = np.random.default_rng(seed)
    slot = np.arange(R)
    positive, valid = slot < np.array(positives)[:, None], slot < np.array(drawn)[:, None]
    target = RoITargets(
        boxes=jnp.zeros((B, R, 4)),
        classes=jnp.asarray(np.where(positive, rng.integers(1, K, (B, R)), 0)),
        deltas=jnp.float32(rng.normal(size=(B, R, 4))),
        masks=jnp.float32(rng.random((B, Q, M, M))),
        positive=jnp.asarray(positive),
        valid=jnp.asarray(valid),
    )
    shapes = (B, R, K), (B, R, K, 4), (B, Q, M, M, K)
    return *(jnp.float32(rng.normal(size=shape)) for shape in shapes), target


def test_by_hand():
    """One positive of class 1, one negative, one unfilled slot; all logits 0, one delta off by 2."""
    target = RoITargets(
        jnp.zeros((1, 3, 4)), jnp.array([[1, 0, 0]]), jnp.zeros((1, 3, 4)), jnp.ones((1, 1, 2, 2)),
        jnp.array([[True, False, False]]), jnp.array([[True, True, False]]),
    )  # fmt: skip
    deltas = jnp.full((1, 3, 3, 4), 9.0).at[0, 0, 1].set(jnp.array([0.0, 2.0, 0.0, 0.0]))
    case = (jnp.zeros((1, 3, 3)), deltas, jnp.zeros((1, 1, 2, 2, 3)), target)
    for rule, box in (("matterport", 1.5 / 4), ("torchvision", (2 - 1 / 18) / 2), ("detectron2", 2 / 2)):
        ours = [float(v) for v in roi_losses(*case, config=RULES[rule])]
        assert ours == [pytest.approx(np.log(3)), pytest.approx(box), pytest.approx(np.log(2))]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positives", [(3, 1), (0, 2), (0, 0)])
def test_equals_the_oracle(rule, positives):
    logits, deltas, masks, t = some_case(1, positives)
    valid = np.ones((B, R), bool) if rule == "matterport" else np.asarray(t.valid)  # it counts unfilled rows as well
    divisor = 4 * sum(positives) if rule == "matterport" else 11
    arrays = (np.asarray(v) for v in (logits, deltas, masks, t.classes, t.deltas, t.masks, t.positive))
    expected = oracles.roi_losses(*arrays, valid, divisor, RULES[rule].box_beta)
    np.testing.assert_allclose(JITTED[rule](logits, deltas, masks, t), expected, rtol=2e-6)
    np.testing.assert_allclose(roi_losses(logits, deltas, masks, t, config=RULES[rule]), expected, rtol=2e-6)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_reach_valid_slots_alone(rule):
    logits, deltas, masks, t = some_case(2, (2, 0), (5, 0))
    value = jax.jit(jax.value_and_grad(lambda c, d, m, t: sum(roi_losses(c, d, m, t, config=RULES[rule])), (0, 1, 2)))
    total, (by_class, by_delta, by_mask) = value(logits, deltas, masks, t)
    padded, positive = ~np.asarray(t.valid), np.asarray(t.positive)
    assert by_class[padded].any() == (rule == "matterport")
    assert not by_delta[~positive].any()
    assert not by_mask[~positive[:, :Q]].any()
    own = np.arange(K) == np.asarray(t.classes)[..., None]
    assert not by_delta[~own].any(), "only the true class's deltas"
    assert not by_mask.swapaxes(2, 4)[~own[:, :Q]].any(), "only the true class's mask"
    other = t._replace(
        deltas=jnp.where(t.positive[..., None], t.deltas, 1e6),
        masks=jnp.where(t.positive[:, :Q, None, None], t.masks, 77.0),
    )
    assert total == value(logits, deltas, masks, other)[0]
    nothing = t._replace(positive=jnp.zeros((B, R), bool), valid=jnp.zeros((B, R), bool), classes=0 * t.classes)
    total, gradients = value(logits, deltas, masks, nothing)
    assert np.isfinite(total)
    assert all(np.isfinite(g).all() for g in gradients)
    assert (total == 0) == (rule != "matterport")


@pytest.mark.parametrize("rule", RULES)
def test_one_trace_serves_all_and_images_have_no_order(rule):
    cases = some_case(3), some_case(4, (0, 0), (0, 0))
    assert_jit_changes_nothing(partial(roi_losses, config=RULES[rule]), *cases, rtol=2e-6)
    swapped = jax.tree.map(lambda values: values[::-1], cases[0])
    np.testing.assert_allclose(JITTED[rule](*swapped), JITTED[rule](*cases[0]), rtol=1e-6)


def test_torchvision_classes_and_boxes():
    g = recorded.load("torchvision_losses")
    labels = g["frloss.labels"]
    t = RoITargets(
        jnp.zeros((1, 32, 4)), jnp.asarray(labels)[None], jnp.asarray(g["frloss.targets"])[None],
        jnp.zeros((1, 1, 2, 2)), jnp.asarray(labels > 0)[None], jnp.ones((1, 32), bool),
    )  # fmt: skip
    logits, deltas = jnp.asarray(g["frloss.logits"])[None], jnp.asarray(g["frloss.deltas"]).reshape(1, 32, 7, 4)
    masks = jnp.zeros((1, 1, 2, 2, 7))

    def losses(logits, deltas):
        parts = JITTED["torchvision"](logits, deltas, masks, t)
        return parts[0] + parts[1], parts

    (_, parts), (by_logit, by_delta) = jax.value_and_grad(losses, (0, 1), has_aux=True)(logits, deltas)
    np.testing.assert_allclose(parts[:2], [g["frloss.loss_cls"], g["frloss.loss_box"]], rtol=1e-6)
    np.testing.assert_allclose(by_logit[0], g["frloss.dlogits"], rtol=1e-5)
    np.testing.assert_allclose(by_delta.reshape(32, 28), g["frloss.ddeltas"], rtol=1e-5)


def test_torchvision_masks():
    g = recorded.load("torchvision_losses")
    classes = g["mloss.gt_labels"][g["mloss.matched"]]
    everything = jnp.ones((1, 6), bool)
    t = RoITargets(
        jnp.zeros((1, 6, 4)), jnp.asarray(classes)[None], jnp.zeros((1, 6, 4)), jnp.asarray(g["mloss.targets"])[None],
        everything, everything,
    )  # fmt: skip
    own = np.arange(4) == classes[:, None, None, None]
    logits = jnp.asarray(np.where(own, g["mloss.logits"][..., None], np.float32(3)))[None]
    loss, gradient = jax.value_and_grad(
        lambda masks: JITTED["torchvision"](jnp.zeros((1, 6, 4)), jnp.zeros((1, 6, 4, 4)), masks, t)[2]
    )(logits)
    np.testing.assert_allclose(loss, g["mloss.loss"], rtol=1e-6)
    ours = np.asarray(gradient)[0][np.broadcast_to(own, gradient.shape[1:])].reshape(6, 28, 28)
    np.testing.assert_allclose(ours, g["mloss.dlogits"], rtol=1e-5, atol=1e-11)


def test_matterport():
    """Its class loss runs over the rows whose predicted class is active in image 0's data set, here by `valid`. With
    all classes active, as when one data set is trained on, those are all rows: the rule "slots".
    """
    g = recorded.load("matterport_losses")
    classes = g["ls_target_class_ids"]
    active = g["ls_active_class_ids"][0][g["ls_class_logits"].argmax(-1)] > 0
    masks = np.unpackbits(g["ls_target_mask"])[: np.prod(g["ls_target_mask_shape"])].reshape(g["ls_target_mask_shape"])
    t = RoITargets(
        jnp.zeros((2, 10, 4)), jnp.asarray(classes), jnp.asarray(recorded.xyxy(g["ls_target_bbox"])),
        jnp.float32(masks), jnp.asarray(classes > 0), jnp.asarray(active),
    )  # fmt: skip
    probability = np.full((2, 10, 28, 28, 7), 0.25)
    positive = np.nonzero(classes)
    probability[(*positive, slice(None), slice(None), classes[positive])] = g["ls_own_mask"]
    probability = np.clip(probability.astype(np.float32), np.float32(1e-7), np.float32(1 - 1e-7))  # as Keras does
    logits = jnp.asarray(np.log(probability / (1 - probability)))
    case = jnp.asarray(g["ls_class_logits"]), jnp.asarray(recorded.xyxy(g["ls_pred_bbox"])), logits, t
    loss_class, _, _ = roi_losses(*case, config=RULES["torchvision"])
    _, loss_box, loss_mask = JITTED["matterport"](*case)
    np.testing.assert_allclose([loss_class, loss_box, loss_mask], g["ls_values"][2:5], rtol=1e-6)
    # Its recorded empty cases: no positive for the boxes, none for the masks.
    empty = t._replace(positive=jnp.zeros((2, 10), bool), classes=0 * t.classes)
    _, loss_box, loss_mask = JITTED["matterport"](*case[:3], empty)
    assert [loss_box, loss_mask] == g["ls_values"][5:7].tolist() == [0, 0]
