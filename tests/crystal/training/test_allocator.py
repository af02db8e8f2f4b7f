"""Freed memory is used again without new pages, in processes of their own."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from crystal.training.allocator import give_back, keep_freed_memory, prepare_heaps

COUNT = """
import resource, sys
from crystal.training.allocator import keep_freed_memory, prepare_heaps
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
# Megabytes that are resident no more, of 64 that are free but kept, in the midst of the heap.
FREE = """
import psutil
from crystal.training.allocator import give_back
large, small = bytearray(64 << 20), bytearray(1 << 12)
del large
before = psutil.Process().memory_info().rss
if sys.argv[2] == "give back":
    assert give_back()
print((before - psutil.Process().memory_info().rss) >> 20)
"""
# A digit for each block of 64 MB that is freed, two at a time, one after the other: 1 if it is resident no more. After
# the first step, while a checkpoint is written, and when that is done. Last, 1 if another checkpoint gives them back.
RUN = """
import psutil
from crystal.training.allocator import RunMemory
memory = RunMemory()
def step(writing):
    bytearray(64 << 20)
    memory.stepped(writing=writing)
def freed():
    blocks, resident = [bytearray(64 << 20), bytearray(64 << 20)], []
    for _ in range(3):
        resident.append(psutil.Process().memory_info().rss >> 20)
        if blocks:
            blocks.pop()
    return [before - after for before, after in zip(resident, resident[1:])]
memory.compiled()
step(False)
gone = freed()
memory.saving()
step(True)
gone += freed()
step(False)
gone += freed()
kept = psutil.Process().memory_info().rss >> 20
memory.saving()
memory.stepped(writing=False)
gone.append(kept - (psutil.Process().memory_info().rss >> 20))
print(*(int(megabytes > 60) for megabytes in gone), sep="")
"""
# How many of 30 threads, each with a block at the same time, have it in the main thread's heap.
THREADS = """
import ctypes, threading
from pathlib import Path
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together, places = threading.Barrier(30), []
def hold():
    together.wait()
    places.append(libc.malloc(1 << 16))
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(30)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
(line,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
first, last = (int(end, 16) for end in line.split()[0].split("-"))
print(sum(first <= place < last for place in places))
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
def test_what_is_free_goes_back_when_it_is_told_to():
    assert printed(FREE, "keep", "give back") >= 60
    assert abs(printed(FREE, "keep", "nothing")) < 4


@glibc
def test_a_run_keeps_what_its_steps_free_but_not_while_it_writes():
    """And what was kept till then goes back when a checkpoint is written."""
    assert printed(RUN, "prepare") == 11001


@glibc
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of the process's memory")
def test_no_thread_shares_the_main_threads_heap():
    assert printed(THREADS, "prepare") == 0


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", ""))
    monkeypatch.delattr("ctypes.CDLL")
    assert not prepare_heaps()
    assert not keep_freed_memory()
    assert not give_back()
