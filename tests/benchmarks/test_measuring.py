"""What is timed is computed, and results are not lost: the parts that all benchmarks share."""

import doctest
import importlib
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import measuring, peaks, profiling
from benchmarks.measuring import Repeated, again_and_again, in_loop, in_program, in_turns, save, show


@pytest.mark.parametrize("module", ["measuring", "profiling", "scaling", "step"])
def test_examples(module):
    found = doctest.testmod(importlib.import_module(f"benchmarks.{module}"))
    assert found.attempted
    assert not found.failed


def test_every_round_of_a_program_is_computed():
    """XLA takes out of a loop what does not change in it; the product stays inside."""
    a = jnp.arange(16.0).reshape(4, 4)
    program = jax.jit(again_and_again(lambda a, b: {"product": a @ b}, 3)).lower(a, a).compile()
    np.testing.assert_allclose(program(a, a)["product"], a @ a)
    computations = program.as_text().split("\n\n")
    assert [c.lstrip().startswith("ENTRY") for c in computations if " dot(" in c or "dot_general" in c] == [False]


def test_a_computer_that_is_waited_for_computes_once():
    """On a CPU, where the host is told nothing in advance."""
    assert in_program(jnp.sin, jnp.ones(3)).times == in_loop(lambda: jnp.ones(3)).times == 1


def test_a_sample_is_the_time_of_one_round(monkeypatch):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    calls = []
    seconds = in_turns({"one": lambda: calls.append(1), "ten": Repeated(lambda: calls.append(10), 10)}, repeats=2)
    assert seconds == {"one": [30, 30], "ten": [3, 3]}
    assert calls == [1, 1, 10, 10] * 3, "a turn of warming up and two that count, each call made twice"


def test_a_partial_run_keeps_what_others_measured(tmp_path):
    """With the machine and the settings of theirs; what was measured anew replaces the old."""

    def run(repeats, **seconds):
        rows = [{"op": op, "seconds": taken} for op, taken in seconds.items()]
        return save("how fast?", "ops", settings={"repeats": repeats}, out=tmp_path, rows=rows, key=("op",))

    path = run(5, nms=1.0, clahe=2.0)
    before = json.loads(path.read_text())
    assert run(9, clahe=3.0) == path
    found = json.loads(path.read_text())
    assert found["settings"] == {"repeats": 9}
    kept = {"machine": before["machine"], "settings": {"repeats": 5}, "op": "nms", "seconds": 1.0}
    assert found["rows"] == [kept, {"op": "clahe", "seconds": 3.0}]


def test_results_go_where_they_are_wanted(tmp_path):
    path = tmp_path / "there" / "mine.json"
    assert save("why?", "ops", settings={}, out=path, answer=42) == path
    assert json.loads(path.read_text())["answer"] == 42
    assert measuring.results_file("ops", tmp_path).parent == tmp_path
    assert measuring.results_file("ops").parent == measuring.RESULTS


def test_tables_in_a_file_are_not_cut(capsys):
    show("wide", ["name", "long"], [["a", "x" * 150]])
    assert "x" * 150 in capsys.readouterr().out


def test_a_busy_machine_is_mentioned(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "LOAD", 0.0)
    measuring.warn_if_busy()
    assert not capsys.readouterr().out
    monkeypatch.setattr(measuring, "LOAD", 1000.0)
    measuring.warn_if_busy()
    assert "1000.0 of" in capsys.readouterr().out


def test_operations_of_a_profile(tmp_path, capsys):
    a = jnp.ones((8, 8))
    program = jax.jit(lambda a: jnp.sort(a, axis=0)).lower(a).compile()
    profiling.record(lambda: program(a), tmp_path, program)
    assert any("sort" in name for name, _ in profiling.operations(tmp_path))
    profiling.main(tmp_path)
    assert "sort" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="holds no profile"):
        profiling.operations(tmp_path / "elsewhere")


def test_datasheets_are_there(monkeypatch):
    for kind in peaks.TARGETS:
        monkeypatch.setattr(peaks.jax, "devices", lambda kind=kind: [SimpleNamespace(device_kind=kind)])
        assert peaks.datasheet_flops("bfloat16") >= 1.9 * peaks.datasheet_flops("float32") > 1e13
    monkeypatch.setattr(peaks.jax, "devices", lambda: [SimpleNamespace(device_kind="cpu")])
    assert peaks.datasheet_flops("bfloat16") is None
