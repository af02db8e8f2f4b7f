"""Freed memory is used again without new pages, in processes of their own."""

import platform
import subprocess
import sys

import pytest

from crystal import allocator
from crystal.allocator import SteadyHeap, keep_freed_memory

COUNT = """
import resource, sys
from crystal.allocator import keep_freed_memory
def keep():
    if sys.argv[1] == "keep":
        assert keep_freed_memory()
def second_call_faults(call):
    call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
BLOCK = """
keep()
print(second_call_faults(lambda: bytearray(64 << 20)))
"""
PROGRAM = """
import jax, jax.numpy as jnp
keep()
program = jax.jit(lambda x: jnp.tile(x, 128))
x = jnp.ones(1 << 17)
print(sorted(second_call_faults(lambda: program(x).block_until_ready()) for _ in range(15))[7])
"""

STEADY = """
from crystal.allocator import SteadyHeap
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
def step():
    b"x" * (64 << 20)
    if heap:
        heap.stepped()
keep()
heap = SteadyHeap() if len(sys.argv) > 2 else None
b"x" * (300 << 20)  # a compiler's
for _ in range(5):
    step()
before = resident()
faults = second_call_faults(step)
b"x" * (100 << 20)  # a checkpoint's
beside = resident() - before
if heap:
    heap.renew()
    given_back = before - resident()
    for _ in range(4):
        step()
    print(before, faults, beside, given_back, second_call_faults(step), resident() - before)
else:
    print(before, faults, beside)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")


def measured(program: str, *how: str) -> list[int]:
    words = [sys.executable, "-c", COUNT + program, *how]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@glibc
@pytest.mark.parametrize("program", [BLOCK, PROGRAM], ids=["a block", "of a program"])
def test_the_same_memory_again_costs_no_page_faults(program):
    """64 MB are 16,384 pages of 4 KB, or 32 of 2 MB. Now and then something small takes a program's place, and its next
    result a new one: the median counts.
    """
    assert measured(program, "keep")[0] < 8
    assert measured(program, "default")[0] >= 32


@glibc
def test_a_steady_heap_keeps_the_steps_own_memory_and_no_other():
    """Megabytes; the interpreter, NumPy and JAX take 100 to 200."""
    before, faults, beside = measured(STEADY, "keep")
    assert before > 300
    assert faults < 8
    before, faults, beside, given_back, faults_again, grown = measured(STEADY, "keep", "steady")
    assert before < 300
    assert faults < 8
    assert beside < 8
    assert given_back > 56
    assert faults_again < 8
    assert grown < 8


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", ""))
    monkeypatch.delattr("ctypes.CDLL")
    monkeypatch.setattr(allocator, "_kept", False)
    assert not keep_freed_memory()
    heap = SteadyHeap()
    heap.stepped()
    heap.renew()
