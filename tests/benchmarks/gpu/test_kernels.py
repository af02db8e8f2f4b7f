"""Kernels, bytes, FLOPs and atomics of stored programs (`store.py`), against counts by hand."""

from pathlib import Path

import pytest

from benchmarks.gpu.kernels import kernels_of, unknown_loops
from benchmarks.gpu.plan import largest_batch, make_plan
from benchmarks.gpu.price import Rates, price
from benchmarks.gpu.program import Array, ProgramError, read_program
from benchmarks.gpu.stages import origin
from benchmarks.gpu.target import LEVELS, Level, read_target
from benchmarks.gpu.work import Product, Work

FOLDER = Path(__file__).parent
ALL = Level(memory=1.0, matrix=1.0, simple=1.0, launch=0.0, wait=0.0, whole_tiles=False)


def stored(name):
    return read_program((FOLDER / f"{name}.hlo").read_text())


def kernels(name, rounds=6):
    return kernels_of(stored(name), rounds=rounds)


def test_flops_of_a_convolution_and_its_gradients():
    """2 x 8 x 8 cells, 64 to 32 channels, 3 x 3: the same sum forward and for each of the two gradients."""
    found = [k for k in kernels("convolution") if k.work.flops]
    assert {k.kind for k in found} == {"convBiasActivationForward", "convBackwardFilter", "convBackwardInput"}
    assert [k.work.flops for k in found] == [2 * (2 * 8 * 8) * 32 * 9 * 64] * 3


def test_bytes_of_a_library_call_leave_out_its_workspace():
    forward = next(k for k in kernels("convolution") if k.kind == "convBiasActivationForward")
    assert forward.work.read == 2 * (2 * 8 * 8 * 64 + 9 * 64 * 32 + 32)
    assert forward.work.written == 2 * (2 * 8 * 8 * 32)


def test_sorted_indices_take_fewer_atomic_additions():
    """640 rows of 32 numbers into 10: 64 a row, so one addition for each row of the table and one for 64 rows."""
    assert sorted(k.work.atomics for k in kernels("scatters") if k.work.atomics) == [(10 + 640 / 64) * 32, 640 * 32]


def test_loops_count_their_rounds():
    """A fifth of the products' FLOPs each; the other loop's length is not known, and the host decides it."""
    product = 2 * 64**3
    assert sum(k.times * k.work.flops for k in kernels("loops")) == 5 * product
    assert unknown_loops(stored("loops")) == 1
    for rounds in (3, 6):
        waits = [k for k in kernels("loops", rounds) if k.work.waits]
        assert [k.times for k in waits] == [rounds + 1]


def test_the_lines_of_the_source():
    program = stored("scatters")
    places = {place.function for i in program.instructions() for place in program.stack(i)}
    assert {"scatters", "main"} <= places
    assert {origin(program, i).stage for i in program.instructions()} == {"other"}


@pytest.mark.parametrize("text", ["", "HloModule x\n", "ENTRY %main (a: f32[]) -> f32[] {\n  %x = f32[2 add(\n}\n"])
def test_other_texts_are_refused(text):
    with pytest.raises(ProgramError):
        read_program(text)


def test_price_by_hand():
    """At a target's full rates the slowest part counts; a pause between kernels comes on top."""
    target = read_target("h200")
    kernel = kernels("loops")[0]
    kernel.times, kernel.work = 3, Work(read=4.8e9, products=[Product(1000, 1000, 494_500, "bf16")])
    at = price(kernel, Rates(target, ALL))
    assert at.seconds == pytest.approx(3e-3)
    assert at.bound == "memory" or at.bound == "matrix"
    kernel.work.atomics = 2 * target.cores * target.clock
    paused = price(kernel, Rates(target, ALL._replace(launch=1e-3)))
    assert (paused.seconds, paused.bound) == (pytest.approx(3 * 2.001), "atomics")


def test_channels_are_padded_to_eight():
    """A convolution of three channels costs one of eight."""
    target, kernel = read_target("h200"), kernels("loops")[0]
    kernel.times, kernel.work = 1, Work(products=[Product(10_000, 64, 27, "bf16", channels=(3, 64))])
    assert price(kernel, Rates(target, ALL)).seconds == pytest.approx(2 * 10_000 * 64 * 27 * 8 / 3 / 989e12)


def test_whole_tiles_never_cost_less():
    target, kernel = read_target("h200"), kernels("loops")[0]
    for size in (64, 1000, 5000):
        kernel.times, kernel.work = 1, Work(products=[Product(size, size, size, "bf16")])
        smooth, tiled = (price(kernel, Rates(target, ALL._replace(whole_tiles=w))).seconds for w in (False, True))
        assert tiled >= smooth


def test_a_plan_of_other_flops_or_of_no_stages_is_not_believed():
    """The stored program is no network: none of its time belongs to a stage."""
    flops = 2 * 64**3 * 5
    options = dict(batch=1, temporary=0, memory=0)
    for model_flops, count in ((flops, 1), (1.01 * flops, 1), (1.03 * flops, 2), (0.97 * flops, 2)):
        plan = make_plan(kernels("loops"), read_target("h200"), model_flops=model_flops, **options)
        assert len(plan.faults()) == count
    seconds = [plan.seconds(level) for level in LEVELS]
    assert seconds == sorted(seconds)
    assert plan.to_dict(3)["estimated_images_per_second"]["middle"] == pytest.approx(1 / plan.seconds())


def test_targets():
    assert read_target("l4").memory_bytes < read_target("a100").memory_bytes < read_target("h200").memory_bytes
    with pytest.raises(ValueError, match="a100, h200, l4"):
        read_target("b300")


def test_largest_batch():
    assert largest_batch({64: 640 + 100, 16: 160 + 100}, 1000) == 90


def test_size_of_arrays():
    assert (Array("f32", ()).size, Array("pred", (3, 0)).bytes, str(Array("bf16", (2, 3)))) == (1, 0, "bf16[2,3]")
