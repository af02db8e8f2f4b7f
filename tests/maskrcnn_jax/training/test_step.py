"""The step learns, compiles once, spends nothing on the frozen and survives what is not finite."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training.optimizer import make_optimizer
from maskrcnn_jax.training.state import create_state
from maskrcnn_jax.training.step import make_step
from tests.overfit import from_scratch, one_drop, overfit
from tests.small import small_batch, small_model
from tests.traced import multiplications, needed_program

WINDOWS = jnp.tile(jnp.array([0.0, 0.0, 64.0, 64.0]), (2, 1))
KEY = jax.random.key(0)


@cache
def compiled(part):
    """(step, a maker of fresh states): all tests of a part share one compiled step."""
    optimizer = make_optimizer(optax.constant_schedule(3e-3), kind="adamw")
    model = small_model()
    graph, _ = create_state(model, optimizer, part=part)
    return make_step(graph, optimizer), lambda: create_state(model, optimizer, part=part)[1]


def start(part="all"):
    step, fresh = compiled(part)
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
    backbone = multiplications(needed_program(lambda images: model.backbone(model.normalise(images)), images))
    early = multiplications(needed_program(lambda images: model.backbone(model.normalise(images))[:3], images))
    heads, stage4, everything = count("heads"), count("stage4"), count("all")
    rest = forward - backbone
    assert forward + rest < heads <= forward + 2 * rest
    assert heads < stage4 <= forward + 2 * (forward - early)
    assert everything - stage4 > early


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
        rpn=dataclasses.replace(paper.rpn, channels=32, before_nms=(100, 100), after_nms=(50, 50)),
        roi=dataclasses.replace(paper.roi, box_hidden=64, mask_channels=16, mask_layers=1, samples=30, max_positive=10),
    )
    losses = overfit(from_scratch(shallow), size=128, steps=25, learning_rate=3e-3)
    assert losses[-1] < 0.3 * losses[0]


def test_the_step_of_the_paper_preset_fits_together():
    """ResNet101 with frozen norms, 512x512, SGD: shapes only, nothing is computed."""
    optimizer, graphs = make_optimizer(optax.constant_schedule(1e-3)), []

    def fresh():
        graph, state = create_state(MaskRCNN(MaskRCNNConfig.paper(), rngs=nnx.Rngs(0)), optimizer, norms=False)
        graphs.append(graph)
        return state

    state = jax.eval_shape(fresh)
    assert 55e6 < sum(p.size for p in jax.tree.leaves(state.params)) < 70e6
    after, metrics = jax.eval_shape(make_step(graphs[0], optimizer), state, *one_drop(512), KEY)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert metrics.keys() >= {"total", "grad_norm", "skipped"}
