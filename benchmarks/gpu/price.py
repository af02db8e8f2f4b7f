"""How long a kernel takes, at guessed rates: an ESTIMATE, never a measurement.

A kernel takes as long as the slowest thing that it does: moving bytes, multiplying matrices, computing with single
numbers, adding atomically or sorting. All of these overlap in a good kernel. Between kernels the GPU rests for a few
microseconds.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.gpu.kernels import Kernel
from benchmarks.gpu.target import Level, Target
from benchmarks.gpu.work import Product

SORTED_PAIRS = 2.5e-3  # pairs of 32 bits a second that a radix sort sorts, per byte a second of memory bandwidth
TENSOR_CORE = 8  # factors are padded to multiples of this
TILES = ((256, 128, 1.0), (128, 128, 0.95), (128, 64, 0.8), (64, 64, 0.6))  # (rows, columns, share of the peak)
SPLITS, LEAST_DEPTH, SPLIT_SECONDS = (1, 2, 4, 8, 16, 32, 64), 128, 2e-6


@dataclass(frozen=True)
class Rates:
    """What a target is assumed to reach."""

    target: Target
    level: Level

    def flops(self, product: Product) -> float:
        """FLOPs a second of a matrix product."""
        kind = "bf16" if product.dtype in ("bf16", "f16") else "f32" if product.exact else "tf32"
        return self.target.flops[kind] * self.level.matrix

    @property
    def operations(self) -> float:
        """Operations on single float32 numbers a second; a multiply-add counts two FLOPs."""
        return self.target.flops["f32"] / 2 * self.level.simple

    @property
    def atomics(self) -> float:
        """Atomic additions a second."""
        return self.target.cores * self.target.clock * self.level.simple


class Price(NamedTuple):
    """Seconds of a kernel in one run of the program, and what they are bound by."""

    seconds: float
    bound: str
    waiting: float  # of these, between kernels


def price(kernel: Kernel, rates: Rates) -> Price:
    """What a kernel costs, all the times that it runs."""
    work, level, target = kernel.work, rates.level, rates.target
    parts = {
        "memory": work.moved / (target.memory_bandwidth * level.memory),
        "cache": work.gathered / (target.cache_bandwidth * level.memory),
        "matrix": sum(_product(product, rates) for product in work.products),
        "operations": work.operations / rates.operations,
        "atomics": work.atomics / rates.atomics,
        "sort": work.sorted_pairs / (target.memory_bandwidth * level.memory * SORTED_PAIRS),
    }
    bound = max(parts, key=parts.__getitem__)
    waiting = work.launches * level.launch + work.waits * level.wait
    return Price(
        kernel.times * (parts[bound] + waiting), bound if parts[bound] > waiting else "launch", kernel.times * waiting
    )


def _product(product: Product, rates: Rates) -> float:
    """Seconds of a matrix product."""
    padded = math.prod(_padded(n) / n for n in product.channels if n)
    if not rates.level.whole_tiles:
        return product.needed * padded / rates.flops(product)
    return _in_tiles(product, padded, rates)


def _in_tiles(product: Product, padded: float, rates: Rates) -> float:
    """Seconds where each multiprocessor computes a tile of the result at a time, all of them in step: the best of four
    tiles, and of dividing the sum into parts that are added afterwards.
    """
    cores, best = rates.target.cores, math.inf
    of_one = rates.flops(product) / cores
    useful = product.needed / max(2.0 * product.batch * product.rows * product.columns * product.depth, 1)
    for rows, columns, share in TILES:
        tiles = product.batch * math.ceil(product.rows / rows) * math.ceil(_padded(product.columns) / columns)
        for parts in SPLITS:
            depth = product.depth / parts
            if parts > 1 and depth < LEAST_DEPTH:
                break
            waves = math.ceil(tiles * parts / cores)
            seconds = waves * 2 * rows * columns * depth * padded / (share * of_one)
            best = min(best, seconds * useful + (SPLIT_SECONDS if parts > 1 else 0.0))
    return best


def _padded(n: int) -> int:
    return -(-n // TENSOR_CORE) * TENSOR_CORE
