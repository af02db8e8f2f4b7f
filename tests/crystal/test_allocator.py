"""A freed block is used again without new pages, in a process of its own."""

import platform
import subprocess
import sys

import pytest

from crystal.allocator import keep_freed_memory

PROGRAM = """
import resource, sys
from crystal.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(64 << 20)
before = faults()
bytearray(64 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_a_second_block_costs_no_page_faults():
    """64 MB are 16,384 pages of 4 KB, or 32 of 2 MB."""
    pages = {
        how: int(
            subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout
        )
        for how in ("keep", "default")
    }
    assert pages["keep"] < 8
    assert pages["default"] >= 32


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", ""))
    assert not keep_freed_memory()
