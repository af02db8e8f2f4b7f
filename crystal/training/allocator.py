"""Memory that a step frees stays with the process, so that the next step need not ask the kernel for it again."""

import ctypes
import os
import platform

import jax

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
HEAPS = max(32, 8 * (os.cpu_count() or 2))  # one for each thread; glibc itself makes eight a core
BLOCK = 128 << 10  # glibc's own threshold, which it would otherwise raise to 32 MB as blocks are freed
BLOCKS = 65536  # glibc's own limit of how many at a time come from the kernel


def prepare_heaps() -> bool:
    """Before JAX's first computation, in the main thread: False where `malloc` is not glibc's, which stays as it is.

    Only the main thread's heap grows to the size of a step, another thread's is made of pieces of 64 MB. JAX is told to
    run a CPU's programs in the thread that calls them. No other thread shares the main thread's heap: what the writers
    of a checkpoint hold there would take a step's place, which would then find another, with the old one kept as well.
    What is larger than `BLOCK` comes from the kernel and goes back to it, so that the compiler leaves little behind
    that no step asks for again.
    """
    if not _is_glibc():
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return _set((M_ARENA_MAX, HEAPS), (M_MMAP_THRESHOLD, BLOCK))


def keep_freed_memory() -> bool:
    """From now on `malloc` keeps what is freed; False where it is not glibc's, which stays as it is.

    A training step of ResNet101 at 512 on two cores asks for 2.3 GB, for which the kernel otherwise clears 580,000
    fresh pages each time. The process's memory then stays at its peak, so that a run calls it when all is compiled.
    """
    return _set((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def give_back() -> bool:
    """The pages of all that is free, to the kernel; False where `malloc` is not glibc's, which stays as it is."""
    if not _is_glibc():
        return False
    ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
    return True


class RunMemory:
    """What a run of equal steps keeps: as much as a step needs, however long it runs.

    Freed memory is kept, but neither what a compiler leaves nor what each thread that ever took part in writing a
    checkpoint had at its highest. While one is written large blocks come from the kernel and go back to it, so that no
    heap grows beyond what a step needs of it; after that all that is free is given back, and a step's blocks find
    places that are theirs until the next checkpoint.
    """

    def __init__(self) -> None:
        self._saving = False

    def compiled(self) -> None:
        """A phase has made its first step."""
        give_back()
        keep_freed_memory()

    def saving(self) -> None:
        """A checkpoint is about to be written: what is freed from here on goes back to the kernel at once."""
        _set((M_TRIM_THRESHOLD, BLOCK), (M_MMAP_MAX, BLOCKS))
        self._saving = True

    def stepped(self, *, writing: bool) -> None:
        """A further step has been made; `writing` says whether the checkpoint is still on its way."""
        if self._saving and not writing:
            self._saving = False
            self.compiled()


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def _set(*options: tuple[int, int]) -> bool:
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(*option) for option in options)
