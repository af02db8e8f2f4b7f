from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.rpn.loss import rpn_losses
from maskrcnn_jax.rpn.targets import RPNTargets
from tests import oracles, recorded
from tests.traced import assert_jit_changes_nothing

B, A, S = 2, 30, 8
RULES = {
    "matterport": MaskRCNNConfig.matterport_coco().rpn.loss,
    "torchvision": MaskRCNNConfig.torchvision_coco().rpn.loss,
    "detectron2": MaskRCNNConfig.detectron2_coco().rpn.loss,
}
JITTED = {name: jax.jit(partial(rpn_losses, config=rule)) for name, rule in RULES.items()}


def some_case(seed=0, positives=(3, 1), drawn=(8, 5)):
    rng = np.random.default_rng(seed)
    slot = np.arange(S)
    target = RPNTargets(
        indices=jnp.asarray(np.stack([rng.permutation(A)[:S] for _ in range(B)])),
        positive=jnp.asarray(slot < np.array(positives)[:, None]),
        valid=jnp.asarray(slot < np.array(drawn)[:, None]),
        deltas=jnp.float32(rng.normal(size=(B, S, 4))),
    )
    return jnp.float32(rng.normal(size=(B, A))), jnp.float32(rng.normal(size=(B, A, 4))), target


def test_by_hand():
    """One positive with logit 0 and one wrong delta of 2; one negative with logit 0; a third slot unfilled."""
    target = RPNTargets(
        jnp.array([[1, 0, 2]]),
        jnp.array([[True, False, False]]),
        jnp.array([[True, True, False]]),
        jnp.zeros((1, 3, 4)),
    )
    deltas = jnp.zeros((1, 3, 4)).at[0, 1, 2].set(2.0).at[0, 0].set(9.0)
    case = (jnp.zeros((1, 3)), deltas, target)
    for rule, box in (("matterport", 1.5 / 4), ("torchvision", (2 - 1 / 18) / 2), ("detectron2", 2 / 3)):
        ours = rpn_losses(*case, config=RULES[rule])
        share = 2 / 3 if rule == "detectron2" else 1
        assert [float(v) for v in ours] == [pytest.approx(share * np.log(2)), pytest.approx(box)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positives", [(3, 1), (0, 2), (0, 0)])
def test_equals_the_oracle(rule, positives):
    objectness, deltas, t = some_case(1, positives)
    divisor = {"sampled": 13, "slots": B * S, "positive_coordinates": 4 * sum(positives)}
    config = RULES[rule]
    expected = oracles.rpn_losses(
        *(np.asarray(v) for v in (objectness, deltas, t.indices, t.positive, t.valid, t.deltas)),
        divisor[config.class_normaliser], divisor[config.box_normaliser], config.box_beta,
    )  # fmt: skip
    np.testing.assert_allclose(JITTED[rule](objectness, deltas, t), expected, rtol=2e-6)
    np.testing.assert_allclose(rpn_losses(objectness, deltas, t, config=config), expected, rtol=2e-6)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_drawn_and_padded_slots(rule):
    objectness, deltas, t = some_case(2, (1, 0), (3, 0))
    value = jax.jit(jax.value_and_grad(lambda o, d, t: sum(rpn_losses(o, d, t, config=RULES[rule])), (0, 1)))
    total, gradients = value(objectness, deltas, t)
    other = t._replace(
        indices=jnp.where(t.valid, t.indices, 0), deltas=jnp.where(t.positive[..., None], t.deltas, -1e6)
    )
    again, gradients_again = value(objectness, deltas, other)
    assert total == again
    for a, b in zip(gradients, gradients_again, strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_array_equal(a, b)
    nothing = t._replace(valid=jnp.zeros_like(t.valid), positive=jnp.zeros_like(t.valid))
    total, gradients = value(objectness, deltas, nothing)
    assert total == 0
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("rule", RULES)
def test_one_trace_serves_all_and_slots_have_no_order(rule):
    cases = some_case(3), some_case(4, (0, 0), (0, 0))
    assert_jit_changes_nothing(partial(rpn_losses, config=RULES[rule]), *cases, rtol=2e-6)
    objectness, deltas, t = cases[0]
    order = np.random.default_rng(0).permutation(S)
    shuffled = jax.tree.map(lambda values: values[:, order], t)
    np.testing.assert_allclose(
        JITTED[rule](objectness, deltas, shuffled), JITTED[rule](objectness, deltas, t), rtol=1e-6
    )


def test_torchvision():
    """Values and gradients; which anchors are drawn is read off the recorded gradient."""
    g = recorded.load("torchvision_losses")
    objectness = jnp.float32(np.random.RandomState(33).standard_normal((1, 20460)))
    deltas = jnp.float32(0.3 * np.random.RandomState(34).standard_normal((20460, 4)))[None]
    drawn = g["rpnloss.dobj_idx"]
    positive = np.isin(drawn, g["rpnloss.pos_idx"])
    targets = np.zeros((256, 4), np.float32)
    targets[positive] = g["rpnloss.pos_targets"]
    t = RPNTargets(
        jnp.asarray(drawn)[None], jnp.asarray(positive)[None], jnp.ones((1, 256), bool), jnp.asarray(targets)[None]
    )
    values = JITTED["torchvision"](objectness, deltas, t)
    np.testing.assert_allclose(values, [g["rpnloss.loss_obj"], g["rpnloss.loss_box"]], rtol=1e-6)
    by_logit = jax.grad(lambda o: JITTED["torchvision"](o, deltas, t)[0])(objectness)[0]
    by_delta = jax.grad(lambda d: JITTED["torchvision"](objectness, d, t)[1])(deltas)[0]
    np.testing.assert_allclose(by_logit[drawn], g["rpnloss.dobj"], rtol=1e-5)
    assert np.count_nonzero(by_logit) == 256
    np.testing.assert_allclose(by_delta[g["rpnloss.ddelta_idx"]], g["rpnloss.ddelta"], rtol=1e-5)
    assert np.count_nonzero(np.asarray(by_delta).any(1)) == 20


def test_matterport():
    """Two logits an anchor fold into one. Its labels are 1, -1 for negative, 0 for neutral; a batch of two."""
    g = recorded.load("matterport_losses")
    logits = g["ls_rpn_logits"].astype(np.float64)
    match = g["ls_rpn_match"][..., 0]
    order = np.argsort(-match.astype(int), axis=1, kind="stable")  # its target rows follow the positives in order
    label = np.take_along_axis(match, order, 1)
    targets = np.zeros((2, 60, 4), np.float32)
    targets[:, :32] = recorded.xyxy(g["ls_rpn_target_bbox"])
    t = RPNTargets(jnp.asarray(order), jnp.asarray(label == 1), jnp.asarray(label != 0), jnp.asarray(targets))
    deltas = jnp.asarray(recorded.xyxy(g["ls_rpn_bbox"]))
    values = JITTED["matterport"](jnp.float32(logits[..., 1] - logits[..., 0]), deltas, t)
    np.testing.assert_allclose(values, g["ls_values"][:2], rtol=1e-6)
    # Its recorded empty cases: every anchor neutral, and none of them positive.
    neutral = t._replace(valid=0 * t.valid > 0, positive=0 * t.positive > 0)
    logits = jnp.float32(logits[..., 1] - logits[..., 0])
    assert JITTED["matterport"](logits, deltas, neutral)[0] == g["ls_values"][7] == 0
    no_positive = t._replace(positive=0 * t.positive > 0)
    assert JITTED["matterport"](logits, deltas, no_positive)[1] == g["ls_values"][8] == 0
