"""Freed memory is used again without new pages, in processes of their own."""

import platform
import subprocess
import sys

import pytest

from crystal.allocator import HEAPS, keep_freed_memory, prepare_heaps

COUNT = """
import resource, sys
from crystal.allocator import keep_freed_memory, prepare_heaps
if sys.argv[1] != "default":
    assert prepare_heaps()
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def third_call_faults(call):
    call()
    call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
# Of as many megabytes as the second word says; the program's are always 64.
BLOCK = """
print(third_call_faults(lambda: bytearray(int(sys.argv[2]) << 20)))
"""
PROGRAM = """
import jax, jax.numpy as jnp
program = jax.jit(lambda x: jnp.tile(x, 128))
x = jnp.ones(1 << 17)
print(sorted(third_call_faults(lambda: program(x).block_until_ready()) for _ in range(15))[7])
"""
# Twice as many threads as heaps, each with a block at the same time, and then glibc's own list of its heaps.
THREADS = """
import ctypes, os, tempfile, threading
from crystal.allocator import HEAPS
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
together = threading.Barrier(2 * HEAPS)
def hold():
    together.wait()
    libc.malloc(1 << 16)
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(2 * HEAPS)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "heaps").encode()
    file = libc.fopen(path, b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(open(path).read().count("<heap nr="))
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")


def printed(program: str, *how: str) -> int:
    words = [sys.executable, "-c", COUNT + program, *how]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@glibc
@pytest.mark.parametrize("program", [BLOCK, PROGRAM], ids=["a block", "of a program"])
def test_the_same_memory_again_costs_no_page_faults(program):
    """64 MB are 16,384 pages of 4 KB, or 32 of 2 MB. Now and then something small takes a program's place, and its next
    result a new one: the median counts.
    """
    assert printed(program, "keep", "64") < 8
    assert printed(program, "default", "64") >= 32


@glibc
def test_before_that_a_block_goes_back_to_the_kernel():
    """By default glibc keeps one of 16 MB (4,096 pages, or 8 of 2 MB) when it has been freed once."""
    assert printed(BLOCK, "default", "16") < 8
    assert printed(BLOCK, "prepare", "16") >= 8


@glibc
def test_threads_share_few_heaps():
    assert printed(THREADS, "prepare") <= HEAPS < printed(THREADS, "default")


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", ""))
    monkeypatch.delattr("ctypes.CDLL")
    assert not prepare_heaps()
    assert not keep_freed_memory()
