"""What a kernel does, in amounts that are counted from the program: bytes, matrix products, operations, atomics."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.gpu.program import Array


class Product(NamedTuple):
    """`batch` matrix products of [rows, depth] and [depth, columns].

    Attributes:
        dtype: of the factors; float32 is computed in TF32 unless `exact`.
        flops: two for each multiply-add; 0: of the whole product. A strided convolution's gradient has fewer.
        channels: of a convolution, whose kernels compute a multiple of eight of each.
    """

    rows: int
    columns: int
    depth: int
    dtype: str
    batch: int = 1
    exact: bool = False
    flops: float = 0.0
    channels: tuple[int, int] = (8, 8)

    @property
    def needed(self) -> float:
        """FLOPs."""
        return self.flops or 2.0 * self.batch * self.rows * self.columns * self.depth


def matrix_product(
    a: Array, b: Array, contracted: Iterable[int], batched: Iterable[int], *, exact: bool = False
) -> Product:
    """The product of two arrays, from the dimensions of the first that are summed over and that are its batch.

    >>> matrix_product(Array("bf16", (8, 2, 3)), Array("bf16", (8, 3, 5)), [2], [0]).needed
    480.0
    """
    depth = math.prod(a.dims[axis] for axis in contracted)
    batch = math.prod(a.dims[axis] for axis in batched)
    share = max(batch * depth, 1)
    return Product(a.size // share, b.size // share, depth, a.dtype, batch, exact)


@dataclass
class Work:
    """Amounts of one kernel.

    Attributes:
        read: bytes from the GPU's memory.
        written: bytes to it.
        gathered: bytes read several times, from the cache.
        products: matrix products.
        operations: on single numbers.
        atomics: additions to places in memory that several threads may write.
        sorted_pairs: pairs of 32 bits sorted by a library.
        launches: kernels that it really is.
        waits: times that the host has to read a result before it goes on.
    """

    read: float = 0.0
    written: float = 0.0
    gathered: float = 0.0
    products: list[Product] = field(default_factory=list)
    operations: float = 0.0
    atomics: float = 0.0
    sorted_pairs: float = 0.0
    launches: int = 1
    waits: int = 0

    @property
    def flops(self) -> float:
        """Of the matrix products."""
        return sum(product.needed for product in self.products)

    @property
    def moved(self) -> float:
        """Bytes read and written."""
        return self.read + self.written
