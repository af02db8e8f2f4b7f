"""What is trained and what is frozen."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from maskrcnn_jax import checkpoint
from maskrcnn_jax.training.state import create_state, to_model, trainable_filter
from tests.small import small_model


def names(tree):
    return {jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)}


def test_filter_by_hand():
    trained = trainable_filter("stage4")
    assert trained(("backbone", "stages", 2, "blocks", 0, "conv1", "kernel"), None)
    assert not trained(("backbone", "stages", 1, "blocks", 0, "conv1", "kernel"), None)
    assert not trained(("backbone", "stem", "kernel"), None)
    assert trained(("box_head", "first", "kernel"), None)


@pytest.mark.parametrize("norms", [True, False])
def test_norms_of_the_backbone_follow_their_switch(norms):
    trained = trainable_filter("all", norms=norms)
    assert trained(("backbone", "stages", 3, "blocks", 0, "norm2", "scale"), None) is norms
    assert trained(("backbone", "stem_norm", "shift"), None) is norms
    assert trained(("backbone", "stem", "kernel"), None)


@pytest.mark.parametrize("part", ["heads", "stage4", "all"])
def test_state_splits_every_parameter_once_and_merges_back(part):
    model = small_model()
    graph, state = create_state(model, optax.sgd(0.1), part=part)
    everything = names(nnx.to_pure_dict(nnx.state(model)))
    trained, frozen = names(state.params), names(state.frozen)
    assert trained | frozen == everything
    assert not trained & frozen
    assert any(name.startswith("backbone") for name in trained) is (part != "heads")
    again = to_model(graph, state.params, state.frozen)
    for ours, theirs in zip(jax.tree.leaves(nnx.state(again)), jax.tree.leaves(nnx.state(model)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_state_s_arrays_are_its_own():
    """A step donates them; the model's must outlive that."""
    model = small_model()
    _, state = create_state(model, optax.adam(0.1), part="heads")
    jax.tree.map(lambda array: array.delete(), state)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(nnx.state(model)))


def test_variables_that_are_not_parameters_are_refused(tmp_path):
    """A step would lose the update of the statistics, and a checkpoint the statistics themselves."""
    model = small_model()
    model.box_head.norm = nnx.BatchNorm(16, rngs=nnx.Rngs(0))
    model.box_head.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    listed = r"box_head.dropout.rngs.count \(RngCount\), .* box_head.norm.mean \(BatchStat\), .*: use layers without"
    for use in (lambda: create_state(model, optax.sgd(0.1)), lambda: checkpoint.save(model, tmp_path / "new")):
        with pytest.raises(TypeError, match=listed):
            use()
    assert not (tmp_path / "new").exists()
