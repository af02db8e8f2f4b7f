"""The step learns, compiles once, spends nothing on the frozen and survives what is not finite."""

import dataclasses
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maskrcnn_jax.config import BoxHeadConfig, MaskHeadConfig, MaskRCNNConfig
from maskrcnn_jax.losses import masked_mean
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import GroundTruth, Losses
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step
from tests.overfit import from_scratch, one_drop, overfit
from tests.small import SMALL, small_batch, small_model
from tests.traced import multiplications, needed_program

WINDOWS = jnp.tile(jnp.array([0.0, 0.0, 64.0, 64.0]), (2, 1))
KEY = jax.random.key(0)


@cache
def compiled(part, config):
    """(step, a maker of fresh states): all tests of a part and a config share one compiled step."""
    optimizer = make_optimizer(optax.constant_schedule(3e-3), kind="adamw")
    model = small_model(config=config)
    graph, _ = create_state(model, optimizer, part=part)
    return make_step(graph, optimizer), lambda: create_state(model, optimizer, part=part)[1]


def start(part="all", config=SMALL):
    step, fresh = compiled(part, config)
    return step, fresh()


def test_loss_falls_on_one_batch_and_one_trace_serves_other_batches():
    step, state = start()
    images, truth = small_batch(1)
    losses = []
    for _ in range(60):
        state, metrics = step(state, images, truth, WINDOWS, KEY)
        losses.append(float(metrics["total"]))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    state, metrics = step(state, *small_batch(2, empty=True), WINDOWS, KEY)
    assert np.isfinite(float(metrics["total"]))
    assert step._cache_size() == 1
    assert int(state.step) == 61


def test_bfloat16_learns_as_float32_does():
    """The same to 1 % until the proposals, and so the drawn RoIs, begin to differ; then as fast down."""
    curves = {}
    for dtype in ("float32", "bfloat16"):
        step, state = start("all", dataclasses.replace(SMALL, compute_dtype=dtype))
        images, truth = small_batch(1)
        curves[dtype] = []
        for _ in range(20):
            state, metrics = step(state, images, truth, WINDOWS, KEY)
            curves[dtype].append(float(metrics["total"]))
    exact, half = np.array(curves["float32"]), np.array(curves["bfloat16"])
    assert not np.array_equal(exact, half)
    np.testing.assert_allclose(half[:2], exact[:2], rtol=0.01)
    assert exact[-5:].mean() < 0.8 * exact[0]
    assert half[-5:].mean() == pytest.approx(exact[-5:].mean(), rel=0.15)


def test_frozen_parameters_have_no_optimizer_state():
    """That they stay bit-identical over several steps: `test_mesh.py`."""
    _, state = start("heads")
    trained = sum(p.size for p in jax.tree.leaves(state.params))
    assert sum(p.size for p in jax.tree.leaves(state.frozen)) > 0
    assert sum(p.size for p in jax.tree.leaves(state.optimizer) if p.ndim) == 2 * trained


def test_frozen_parts_cost_no_backward_pass():
    """Multiplications: a layer's backward pass costs up to two forward passes (by its inputs, by its kernel), the
    frozen backbone's none. What is traced is counted, without what no result needs; nothing is compiled.
    """
    images, truth = small_batch(1)
    model = small_model()

    def count(part):
        step, state = start(part)
        return multiplications(needed_program(step, state, images, truth, WINDOWS, KEY))

    forward = multiplications(needed_program(lambda images: model.losses(images, truth, KEY).total, images))
    backbone = multiplications(needed_program(lambda images: model.features(images)[0], images))
    early = multiplications(needed_program(lambda images: model.features(images)[0][:3], images))
    heads, stage4, everything = count("heads"), count("stage4"), count("all")
    rest = forward - backbone
    assert forward + rest < heads <= forward + 2 * rest
    assert heads < stage4 <= forward + 2 * (forward - early)
    assert everything - stage4 > early


class Line(MaskRCNN):
    """In place of the network: y = weight x, whose loss is the mean square error of the valid slots of a batch, as the
    network's losses are means over a batch.
    """

    def __init__(self, config=SMALL):
        self.config = config
        self.weight = nnx.Param(jnp.array([1.0]))

    def compare(self, images, truth, key, windows=None, *, axis=None):
        error = (self.weight * truth.boxes[..., 0] - truth.boxes[..., 1]) ** 2
        total = masked_mean(error, truth.valid)
        sampled = SimpleNamespace(positive=truth.valid)
        return SimpleNamespace(losses=Losses(total, *[jnp.zeros(())] * 4, total), anchors=sampled, rois=sampled)


def line_batch(x, y, valid):
    """[b, g] values as a batch that `Line` understands."""
    x, y, valid = (jnp.asarray(part) for part in (x, y, valid))
    boxes = jnp.stack([x, y, x, y], -1)
    truth = GroundTruth(
        boxes, jnp.ones(x.shape, jnp.int32), jnp.zeros((*x.shape, 1, 1)), valid, jnp.zeros(x.shape, bool)
    )
    return jnp.zeros((len(x), 64, 64, 3)), truth, jnp.zeros((len(x), 4))


def line_steps(batches, **options):
    """(weight, last metrics) after these steps of gradient descent at a rate of 0.1."""
    optimizer = make_optimizer(optax.constant_schedule(0.1), weight_decay=0.0, momentum=0.0, clip_norm=1e9, **options)
    graph, state = create_state(Line(), optimizer)
    step, metrics = make_step(graph, optimizer), {}
    for batch in batches:
        state, metrics = step(state, *batch, KEY)
    return float(state.params["weight"][0]), metrics, int(state.step)


def test_a_step_by_hand():
    """Error (1 x 2 - 3)^2 = 1, gradient 2 x 2 x (2 - 3) = -4: the weight goes from 1 to 1.4."""
    weight, metrics, steps = line_steps([line_batch([[2.0, 9.0]], [[3.0, 9.0]], [[True, False]])])
    assert weight == pytest.approx(1.4)
    assert (float(metrics["total"]), float(metrics["grad_norm"])) == pytest.approx((1.0, 4.0))
    assert (int(metrics["positive_rois"]), float(metrics["skipped"]), steps) == (1, 0, 1)


@pytest.mark.parametrize("kernels", ["xla", "cpu"])
def test_the_update_is_a_program_of_its_own_only_where_the_config_asks_for_the_cpus_kernels(kernels):
    optimizer, batch = make_optimizer(optax.constant_schedule(0.1)), line_batch(X, Y, X > 0)
    graph, state = create_state(Line(dataclasses.replace(SMALL, kernels=kernels)), optimizer)
    program = make_step(graph, optimizer).lower(state, *batch, KEY).as_text()
    assert ('inlineable = "false"' in program) is (kernels == "cpu")


X, Y = np.array([[1.0, 2.0], [3.0, 0.5]], np.float32), np.array([[3.0, 1.0], [2.0, 2.0]], np.float32)


@pytest.mark.parametrize("equal", [True, False])
def test_accumulated_halves_are_one_step_of_the_whole_batch_where_their_counts_are_equal(equal):
    """Otherwise the halves count the same, whatever they hold: each loss is a mean over its own batch."""
    valid = np.array([[True, True], [True, equal]])
    halves = [line_batch(X[i : i + 1], Y[i : i + 1], valid[i : i + 1]) for i in range(2)]
    weight, metrics, steps = line_steps(halves, accumulate=2)
    whole, _, _ = line_steps([line_batch(X, Y, valid)])
    gradients = [np.mean((2 * x * (x - y))[v]) for x, y, v in zip(X, Y, valid, strict=True)]
    assert weight == pytest.approx(1.0 - 0.1 * np.mean(gradients), rel=1e-6)
    assert (weight == pytest.approx(whole, rel=1e-6)) is equal
    assert float(metrics["grad_norm"]) == pytest.approx(abs(gradients[1]), rel=1e-6)  # of the last batch alone
    assert steps == 2


def test_a_step_that_is_not_finite_is_left_out_of_the_accumulated():
    good = [line_batch(X[i : i + 1], Y[i : i + 1], [[True, True]]) for i in range(2)]
    bad = line_batch(np.full((1, 2), np.nan, np.float32), Y[:1], [[True, True]])
    weight, metrics, steps = line_steps([good[0], bad, good[1]], accumulate=2, average_decay=0.5)
    assert weight == pytest.approx(line_steps(good, accumulate=2)[0], rel=1e-6)
    assert (float(metrics["skipped"]), steps) == (0, 3)


def test_a_step_that_is_not_finite_changes_nothing_but_the_step_number():
    step, state = start()
    state.params["fpn"]["laterals"][0]["bias"] = jnp.full(8, jnp.nan, jnp.float32)
    before = jax.tree.map(np.array, (state.params, state.optimizer))
    state, metrics = step(state, *small_batch(3), WINDOWS, KEY)
    assert float(metrics["skipped"]) == 1
    assert int(state.step) == 1
    for ours, theirs in zip(jax.tree.leaves((state.params, state.optimizer)), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_same_key_and_step_draw_the_same():
    results = []
    for _ in range(2):
        step, state = start()
        state, metrics = step(state, *small_batch(4), WINDOWS, KEY)
        results.append([float(v) for v in metrics.values()])
    assert results[0] == results[1]


def test_the_papers_architecture_overfits_one_drop():
    """Short: one block a stage at 128x128; the long version, ResNet101 at 256, is `python -m tests.overfit`."""
    paper = MaskRCNNConfig.paper()
    shallow = dataclasses.replace(
        paper,
        backbone=dataclasses.replace(paper.backbone, depths=(1, 1, 1, 1), channels=(64, 64, 128, 128)),
        anchors=dataclasses.replace(paper.anchors, sizes=(8, 16, 32, 64, 128)),
        fpn_channels=32,
        rpn=dataclasses.replace(
            paper.rpn,
            channels=32,
            proposals=dataclasses.replace(paper.rpn.proposals, before_nms=(100, 100), after_nms=(50, 50)),
        ),
        roi=dataclasses.replace(
            paper.roi,
            box_head=BoxHeadConfig(hidden=64),
            mask_head=MaskHeadConfig(channels=16, layers=1),
            targets=dataclasses.replace(paper.roi.targets, samples=30, max_positive=10),
        ),
    )
    losses = overfit(from_scratch(shallow), size=128, steps=25, learning_rate=3e-3)
    assert losses[-1] < 0.3 * losses[0]


def test_the_step_of_the_paper_preset_fits_together():
    """ResNet101 with frozen norms, 512x512, SGD: shapes only, nothing is computed. Equal blocks as a loop: it is traced
    in half the time.
    """
    paper = MaskRCNNConfig.paper()
    paper = dataclasses.replace(paper, backbone=dataclasses.replace(paper.backbone, scan_blocks=True))
    optimizer, graphs = make_optimizer(optax.constant_schedule(1e-3)), []

    def fresh():
        graph, state = create_state(MaskRCNN(paper, rngs=nnx.Rngs(0)), optimizer, norms=False)
        graphs.append(graph)
        return state

    state = jax.eval_shape(fresh)
    assert 55e6 < sum(p.size for p in jax.tree.leaves(state.params)) < 70e6
    after, metrics = jax.eval_shape(make_step(graphs[0], optimizer), state, *one_drop(512), KEY)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert metrics.keys() >= {"total", "grad_norm", "skipped"}
