"""Rules that programs for GPUs keep: each on a small program that breaks it, and all on the real ones.

The real programs take minutes to compile, in the environment of `benchmarks.gpu_plan` alone; `pytest -m slow`.
"""

import importlib.util
from pathlib import Path

import pytest

from benchmarks.gpu.guards import FEATURE_MAP, MOST_KERNELS, broken
from benchmarks.gpu.kernels import Kernel, kernels_of
from benchmarks.gpu.plan import make_plan
from benchmarks.gpu.program import read_program
from benchmarks.gpu.stages import Origin
from benchmarks.gpu.target import LOOP_ROUNDS, read_target
from benchmarks.gpu.work import Work

SCATTERS = (Path(__file__).parent / "scatters.hlo").read_text()
CONVOLUTION = (Path(__file__).parent / "convolution.hlo").read_text().replace("kNone", "kRelu", 1)
CONSTANT = "ENTRY %main () -> f32[600,600] {\n  ROOT %c = f32[600,600]{1,0} constant({...})\n}\n"


def rules(text, kernels=(), *, training=False, batch=1, temporary=0):
    options = dict(batch=batch, model_flops=1.0, temporary=temporary, memory=0)
    plan = make_plan(list(kernels), read_target("h200"), **options)
    return broken(read_program(text), plan, training=training)


def kernel(times, work):
    return Kernel("scatter.1", "scatter", "f32[1]", Origin(), times, work)


def test_a_sound_program():
    assert rules(SCATTERS) == rules(CONVOLUTION, training=True) == []


def test_types_and_constants():
    assert len(rules(SCATTERS.replace("f32[10,32]", "bf16[10,32]"))) == 2
    assert "float64" in rules(SCATTERS.replace("f32[10,32]", "f64[10,32]"))[0]
    assert rules(CONSTANT) == ["c is a constant of 1.4 MiB: pass it as an argument"]


def test_atomic_additions_in_a_loop():
    many = Work(atomics=2 * FEATURE_MAP)
    assert len(rules(SCATTERS, [kernel(4, many)])) == 1
    assert rules(SCATTERS, [kernel(1, many), kernel(4, Work(atomics=100))]) == []


def test_rules_of_training():
    assert rules(SCATTERS, training=True) == ["no convolution has its ReLU fused"]
    too_many = [kernel(1, Work(launches=MOST_KERNELS + 1))]
    assert len(rules(CONVOLUTION, too_many, training=True, batch=16)) == 1
    assert rules(CONVOLUTION, too_many, training=True, batch=64) == []
    for batch, fits, does_not in ((16, 6, 7), (64, 23, 25)):
        assert rules(CONVOLUTION, training=True, batch=batch, temporary=fits << 30) == []
        assert len(rules(CONVOLUTION, training=True, batch=batch, temporary=does_not << 30)) == 1


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax_cuda12_plugin"), reason='needs `pip install -e ".[gpu-plan]"`')
@pytest.mark.parametrize("name", ["train-16", "train-64", "infer-16", "paper-16"])
def test_the_real_programs(name):
    from benchmarks.gpu.programs import compile_for, works

    target, work = read_target("h200"), works()[name]
    found = compile_for(target, work)
    program = read_program(found.text)
    amounts = dict(batch=work.batch, model_flops=found.model_flops, temporary=found.temporary, memory=found.memory)
    plan = make_plan(kernels_of(program, rounds=LOOP_ROUNDS), target, **amounts)
    assert plan.faults() == []
    assert broken(program, plan, training=work.training) == []
