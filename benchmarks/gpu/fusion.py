"""What a fused kernel reads, writes and computes, found by walking its computation from the results back.

A fusion computes only what its results need: of an operand that it slices or gathers it reads the part, not the whole.
So every instruction is asked by its users for a number of elements. Users that ask in the same way share what they get,
since a compiler computes it once: demands are therefore kept by the path of indexing operations that they came by.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

from benchmarks.gpu.program import Instruction, Program
from benchmarks.gpu.stages import OTHER, Origin, origin
from benchmarks.gpu.work import Product, Work, matrix_product

# Operations on a number that take several of the GPU's, and those that take none.
HEAVY = {
    *("exponential", "log", "log-plus-one", "exponential-minus-one", "tanh", "power", "logistic"),
    *("sqrt", "rsqrt", "divide", "sine", "cosine"),
}
MOVES = {"convert", "copy", "bitcast", "reshape", "transpose", "reverse", "negate", "abs", "bitcast-convert"}
HEAVY_COST = 8
MOST_PATHS = 64  # of one instruction; more are added up
SORT_TILE = 4096  # elements that one block of XLA's bitonic sort holds
RADIX_FROM, RADIX_LAUNCHES = 1 << 17, 6  # rows from which a library sorts, and its kernels

Path = tuple[object, ...]


def what_a_fusion_does(program: Program, fusion: Instruction) -> tuple[Work, Origin]:
    """The work of a fusion, and the stage of most of it."""
    return _Fusion(program, fusion).analyse()


class _Fusion:
    """The analysis of one fused computation."""

    def __init__(self, program: Program, fusion: Instruction):
        self.program, self.inner = program, program.called(fusion)
        self.asked: dict[str, dict[Path, tuple[float, float]]] = defaultdict(dict)  # (elements, distinct ones)
        self.in_place: set[str] = set()  # instructions that write into their operand
        self.work = Work()

    def analyse(self) -> tuple[Work, Origin]:
        """Walk from the results to the parameters."""
        self._ask_for_results()
        votes: dict[Origin, float] = defaultdict(float)
        for i in reversed(self.inner.values()):
            if i.op not in ("parameter", "constant", "iota", "tuple") and i.results:
                weight = VISITS.get(i.op, _Fusion.elementwise)(self, i)
                votes[origin(self.program, i)] += weight if weight > 0 else 1e-9
        for i in self.inner.values():
            if i.op == "parameter" and i.results:
                elements, distinct = self.wanted(i.name)
                each = i.result.bytes / max(i.result.size, 1)
                self.work.read += distinct * each
                if elements > 1.5 * distinct:
                    self.work.gathered += elements * each
        return self.work, _winner(votes)

    def _ask_for_results(self) -> None:
        root = next(i for i in self.inner.values() if i.root)
        for result in [self.inner[name] for name in root.operands] if root.op == "tuple" else [root]:
            last = result
            while last.op == "bitcast":
                last = self.inner[last.operands[0]]
            if last.op in ("dynamic-update-slice", "scatter"):
                self.in_place.add(last.name)
                if last.op == "dynamic-update-slice":
                    self.work.written += self.inner[last.operands[1]].written
            elif result.results:
                self.work.written += result.written
                self.ask(result.name, ("flat", result.result.size), result.result.size)

    def ask(self, name: str, path: Path, elements: float, distinct: float | None = None) -> None:
        """Ask an instruction for elements; `distinct` are different ones."""
        if not self.inner[name].results:
            return
        size, paths = self.inner[name].result.size, self.asked[name]
        before = paths.get(path, (0.0, 0.0))
        distinct = min(size, elements if distinct is None else distinct)
        paths[path] = max(before[0], elements), max(before[1], distinct)
        if len(paths) > MOST_PATHS:
            self.asked[name] = {("many",): self.wanted(name)}

    def wanted(self, name: str) -> tuple[float, float]:
        """(elements, distinct ones) that an instruction is asked for in all."""
        demands = self.asked[name].values()
        size = self.inner[name].result.size if self.inner[name].results else 0
        return sum(n for n, _ in demands), min(size, sum(d for _, d in demands))

    def pass_on(self, i: Instruction, name: str, step: Path = (), share: float = 1.0) -> None:
        """Ask an operand for what an instruction is asked for, or a share of it, by the same paths and one step."""
        for path, (elements, distinct) in self.asked[i.name].items():
            self.ask(name, (*step, *path), elements * share, distinct * share)

    def whole(self, i: Instruction, names: tuple[str, ...]) -> None:
        """Ask for operands as they are."""
        for name in names:
            if self.inner[name].results:
                self.ask(name, (i.name, name), self.inner[name].result.size)

    # -- one method for each kind of operation; each returns how much it weighs in the vote for the stage --------------

    def elementwise(self, i: Instruction) -> float:
        elements, _ = self.wanted(i.name)
        cost = HEAVY_COST if i.op in HEAVY else 0 if i.op in MOVES else 1
        self.work.operations += elements * cost
        for name in i.operands:
            if self.inner[name].results and self.inner[name].result.size == 1:
                self.ask(name, (name,), 1)
            else:
                self.pass_on(i, name, ("transpose",) if i.op == "transpose" else ())
        return elements

    def dynamic_update_slice(self, i: Instruction) -> float:
        update = self.inner[i.operands[1]].result.size
        if i.name not in self.in_place:
            self.pass_on(i, i.operands[0])
        self.ask(i.operands[1], (i.name,), update)
        self.whole(i, i.operands[2:])
        return update

    def scatter(self, i: Instruction) -> float:
        half = (len(i.operands) - 1) // 2
        table, index, update = (self.inner[i.operands[at]].result for at in (0, half, half + 1))
        self.whole(i, i.operands[half:])
        touched = min(table.size, update.size) * table.bytes / max(table.size, 1)
        self.work.written += touched
        self.work.read += touched
        if i.name not in self.in_place:
            self.ask(i.operands[0], (i.name,), table.size)
            self.work.written += table.bytes
        rows = index.dims[0] if index.dims else 1
        of_table = max(table.dims[0] if table.dims else 1, 1)
        each = -(-rows // of_table)
        if "indices_are_sorted=true" in i.attributes and table.dtype == "f32" and each > 2:
            # XLA adds runs of equal rows in registers: one addition a run, and one where a thread's part ends.
            self.work.atomics += (min(rows, of_table) + rows / each) * update.size / rows
        else:
            self.work.atomics += update.size
        self.work.operations += update.size
        return update.size

    def gather(self, i: Instruction) -> float:
        index = self.inner[i.operands[1]].result.size
        for path, (elements, _) in self.asked[i.name].items():
            self.ask(i.operands[0], (i.name, *path), elements)
            self.ask(i.operands[1], (i.name, *path), min(index, elements))
        return 4 * self.wanted(i.name)[0]

    def slices(self, i: Instruction) -> float:
        self.pass_on(i, i.operands[0], (i.name,))
        self.whole(i, i.operands[1:])
        return self.wanted(i.name)[0]

    def broadcast(self, i: Instruction) -> float:
        size = self.inner[i.operands[0]].result.size
        for path, (elements, distinct) in self.asked[i.name].items():
            self.ask(i.operands[0], (i.name, *path), min(size, elements), min(size, distinct))
        return 0

    def concatenate(self, i: Instruction) -> float:
        total = sum(self.inner[name].result.size for name in i.operands) or 1
        for name in i.operands:
            self.pass_on(i, name, (i.name, name), self.inner[name].result.size / total)
        return self.wanted(i.name)[0]

    def pad(self, i: Instruction) -> float:
        share = min(1.0, self.inner[i.operands[0]].result.size / max(i.result.size, 1))
        self.pass_on(i, i.operands[0], (i.name,), share)
        self.ask(i.operands[1], (i.name,), 1)
        return self.wanted(i.name)[0]

    def reduce(self, i: Instruction) -> float:
        half = len(i.operands) // 2
        share = self.wanted(i.name)[0] / i.result.size if i.result.size else 0.0
        weight = 0.0
        for name in i.operands[:half]:
            size = self.inner[name].result.size
            self.ask(name, ("flat", size), size * max(share, 1), size)
            weight = size * share
            self.work.operations += weight
        self.whole(i, i.operands[half:])
        return weight

    def dot(self, i: Instruction) -> float:
        product = _dot(i, self.inner[i.operands[0]], self.inner[i.operands[1]])
        self.work.products.append(product)
        self.whole(i, i.operands)
        return product.needed

    def sort(self, i: Instruction) -> float:
        self.whole(i, i.operands)
        axis = i.numbers("dimensions")[0]
        if len(i.result.dims) == 1 and i.result.size >= RADIX_FROM:
            self.work.launches = RADIX_LAUNCHES
            self.work.sorted_pairs = i.result.size
            return i.result.size
        stages, tile = math.ceil(math.log2(max(i.result.dims[axis], 2))), int(math.log2(SORT_TILE))
        passes = 1 + sum(stage - tile + 1 for stage in range(tile + 1, stages + 1))
        self.work.launches = passes
        self.work.read += (passes - 1) * i.written
        self.work.written += (passes - 1) * i.written
        self.work.operations += i.result.size * stages * (stages + 1) / 2 * HEAVY_COST
        return i.result.size

    def fusion(self, i: Instruction) -> float:
        """A nested one, as Triton's matrix products are."""
        self.whole(i, i.operands)
        nested = self.program.called(i)
        dots = [_dot(x, nested[x.operands[0]], nested[x.operands[1]]) for x in nested.values() if x.op == "dot"]
        self.work.products += dots
        return sum(product.needed for product in dots)


VISITS = {
    "broadcast": _Fusion.broadcast,
    "concatenate": _Fusion.concatenate,
    "dot": _Fusion.dot,
    "dynamic-slice": _Fusion.slices,
    "dynamic-update-slice": _Fusion.dynamic_update_slice,
    "fusion": _Fusion.fusion,
    "gather": _Fusion.gather,
    "pad": _Fusion.pad,
    "reduce": _Fusion.reduce,
    "reduce-window": _Fusion.reduce,
    "scatter": _Fusion.scatter,
    "slice": _Fusion.slices,
    "sort": _Fusion.sort,
}


def _dot(i: Instruction, a: Instruction, b: Instruction) -> Product:
    exact = "highest" in i.attributes or "algorithm=dot_f32_f32_f32" in i.attributes
    contracted, batched = i.numbers("lhs_contracting_dims"), i.numbers("lhs_batch_dims")
    return matrix_product(a.result, b.result, contracted, batched, exact=exact)


def _winner(votes: Mapping[Origin, float]) -> Origin:
    """The stage with most votes, and the line of it that has most; those of no stage do not count."""
    stages: dict[str, float] = defaultdict(float)
    for place, weight in votes.items():
        if place.stage != OTHER:
            stages[place.stage] += weight
    if not stages:
        return Origin()
    stage = max(stages, key=stages.__getitem__)
    return max((place for place in votes if place.stage == stage), key=lambda place: votes[place])
