"""A traced step that is kept on disk is the step: the same results, no trace the second time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crystal.training.compilation_cache
from crystal.training.compilation_cache import keep_traced
from maskrcnn_jax.training.mesh import data_mesh, replicate, shard_batch
from maskrcnn_jax.training.state import TrainState


@pytest.fixture
def folder(tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "traced"
    jax.config.update("jax_compilation_cache_dir", before)


def counted(rate=0.5):
    """(a step that moves its weight, how often it was traced)."""
    traces = []

    def step(state, images, truth, windows, key):
        traces.append(1)
        noise = jax.random.normal(jax.random.fold_in(key, state.step), images.shape)
        moved = state.params["w"] - rate * (images + noise + truth).mean(0) * windows.sum()
        return TrainState({"w": moved}, state.frozen, state.optimizer, state.step + 1), {"total": moved.sum()}

    return jax.jit(step, donate_argnums=0), traces


def arguments(images=2):
    state = TrainState({"w": jnp.arange(3.0)}, {}, (), jnp.int32(0))
    return state, jnp.ones((images, 3)), jnp.full((images, 3), 2.0), jnp.ones((images, 4)), jax.random.key(5)


def after_three(step):
    state, *rest = arguments()
    for _ in range(3):
        state, metrics = step(state, *rest)
    return np.array(state.params["w"]), int(state.step), float(metrics["total"])


def test_the_second_time_nothing_is_traced_and_the_results_are_the_same(folder):
    plain, _ = counted()
    weights, count, total = after_three(plain)
    assert count == 3
    for traced in (1, 0):
        step, traces = counted()
        kept = after_three(keep_traced(step, arguments(), "half"))
        assert len(traces) == traced
        np.testing.assert_allclose(kept[0], weights, rtol=1e-6)
        assert kept[1:] == (3, pytest.approx(total, rel=1e-6))
    assert len(list(folder.iterdir())) == 1


def test_the_old_states_memory_goes_to_the_new_one(folder):
    state, *rest = arguments()
    keep_traced(counted()[0], arguments(), "half")(state, *rest)
    assert state.params["w"].is_deleted()
    assert not rest[0].is_deleted()


def test_only_the_first_call_compiles(folder):
    """As a run calls it, with all that spans devices placed on a mesh."""
    state, *inputs, key = arguments()
    mesh = data_mesh()
    state, inputs = replicate(state, mesh), shard_batch(inputs, mesh)
    kept = keep_traced(counted()[0], (state, *inputs, key), "half")
    state, _ = kept(state, *inputs, key)
    events = []

    def listener(name, *_, **__):
        events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        kept(state, *inputs, key)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert events == []  # neither traced nor compiled


@pytest.mark.parametrize("change", ["settings", "shapes", "source", "a setting of JAX"])
def test_another_step_is_traced(folder, change, monkeypatch):
    keep_traced(counted()[0], arguments(), "half")
    step, traces = counted()
    if change == "source":
        monkeypatch.setattr(crystal.training.compilation_cache, "_source", lambda: "another")
    with jax.default_matmul_precision("highest" if change == "a setting of JAX" else None):
        keep_traced(step, arguments(3 if change == "shapes" else 2), "all" if change == "settings" else "half")
    assert len(traces) == 1
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 64])
def test_a_damaged_file_is_written_anew(folder, damage):
    keep_traced(counted()[0], arguments(), "half")
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage + whole[len(damage) : len(whole) // 2])
    step, traces = counted()
    assert after_three(keep_traced(step, arguments(), "half"))[1] == 3
    assert len(traces) == 1
    again, none = counted()
    keep_traced(again, arguments(), "half")
    assert not none


def test_a_folder_that_cannot_be_written_costs_the_trace_alone(folder):
    folder.write_text("in the way")
    step, traces = counted()
    assert after_three(keep_traced(step, arguments(), "half"))[1] == 3
    assert len(traces) == 1


@pytest.mark.parametrize("why", ["no folder", "several devices", "a GPU"])
def test_elsewhere_the_step_is_left_alone(folder, why, monkeypatch):
    if why == "no folder":
        jax.config.update("jax_compilation_cache_dir", None)
    if why == "several devices":
        monkeypatch.setattr(jax, "device_count", lambda: 2)
    if why == "a GPU":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    step, _ = counted()
    assert keep_traced(step, arguments(), "half") is step


def test_a_step_that_prints_runs_as_it_is(folder, capfd):
    """What a student puts into a component to look at it."""

    @jax.jit
    def step(state, images, truth, windows, key):
        jax.debug.print("the sum is {}", images.sum())
        return state, {}

    kept = keep_traced(step, arguments(), "half")
    assert kept is step
    kept(*arguments())
    jax.effects_barrier()
    assert "the sum is 6.0" in capfd.readouterr().out
    assert not folder.exists()


def test_a_step_that_is_wrong_says_so_itself(folder):
    with pytest.raises(ValueError, match="Incompatible shapes"):
        keep_traced(jax.jit(lambda state, images, *_: images + state.params["w"][:2]), arguments(), "half")(
            *arguments()
        )
