"""Memory that a step frees stays with the process, so that the next step need not ask the kernel for it again."""

import ctypes
import platform

import jax

# Of glibc's malloc.h. By default it maps every large block afresh and unmaps it when it is freed.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MANY = 65536  # its own M_MMAP_MAX
_kept = False  # of the whole process, as these settings are


def keep_freed_memory() -> bool:
    """Tell glibc's `malloc` to keep what is freed; True if it took it. Other systems' stay as they are.

    A training step of ResNet101 at 512 on two cores asks for 2.3 GB, for which the kernel otherwise clears 580,000
    fresh pages each time. The process's memory then stays at its peak, but for what a `SteadyHeap` gives back. Only the
    main thread's heap grows to such sizes, another thread's is made of pieces of 64 MB, and so JAX is told to run a
    CPU's programs in the thread that calls them. Call it from the main thread, before JAX's first computation.
    """
    global _kept
    if platform.libc_ver()[0] != "glibc":
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt = ctypes.CDLL(None).mallopt
    _kept = all(mallopt(*option) for option in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)))
    return _kept


class SteadyHeap:
    """A training loop's memory, where what is freed is kept: a step finds what the last one freed, little else stays.

    A compiler leaves a gigabyte behind that no step asks for again, a checkpoint the copies that it was written from,
    and where one of these took the place of a step's temporary block, the next step would add such a block to the heap.
    So all that is free is given back after the first step and before each checkpoint. For two steps after that the heap
    may grow; from then on, what finds no room in it is mapped by itself, and unmapped when it is freed.
    """

    def __init__(self) -> None:
        self._steps = 0
        _map_large_blocks(False)

    def stepped(self) -> None:
        """To be called after every step of a phase."""
        self._steps += 1
        if self._steps == 1:
            _give_back()
        elif self._steps == 2:
            _map_large_blocks(False)
        elif self._steps == 4:
            _map_large_blocks(True)

    def renew(self) -> None:
        """To be called before a checkpoint. What is copied for it, and one step beside that, may still be mapped."""
        self._steps = 1
        _give_back()


def _map_large_blocks(yes: bool) -> None:
    if _kept:
        ctypes.CDLL(None).mallopt(M_MMAP_MAX, MANY if yes else 0)


def _give_back() -> None:
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)
