"""Freed memory is used again without new pages, in processes of their own."""

import platform
import subprocess
import sys

import pytest

from crystal.allocator import give_back_freed_memory, keep_freed_memory

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

GIVEN_BACK = """
from crystal.allocator import give_back_freed_memory
keep()
def block():
    bytearray(64 << 20)
    if len(sys.argv) > 2:
        give_back_freed_memory()
print(second_call_faults(block))
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")


def faults(program: str, *how: str) -> int:
    words = [sys.executable, "-c", COUNT + program, *how]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@glibc
@pytest.mark.parametrize("program", [BLOCK, PROGRAM], ids=["a block", "of a program"])
def test_the_same_memory_again_costs_no_page_faults(program):
    """64 MB are 16,384 pages of 4 KB, or 32 of 2 MB. Now and then something small takes a program's place, and its next
    result a new one: the median counts.
    """
    assert faults(program, "keep") < 8
    assert faults(program, "default") >= 32


@glibc
def test_what_is_given_back_is_asked_for_again():
    assert faults(GIVEN_BACK, "keep") < 8
    assert faults(GIVEN_BACK, "keep", "give back") >= 32


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", ""))
    monkeypatch.delattr("ctypes.CDLL")
    assert not keep_freed_memory()
    give_back_freed_memory()
