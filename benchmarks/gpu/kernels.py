"""The kernels of a compiled program, and what each one reads, writes and computes.

A fusion, a library call or a copy of the entry computation is one kernel; a loop's are counted once a round. Bytes,
FLOPs and numbers of kernels follow from the program; how long they take is a guess (`price.py`).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.gpu.fusion import what_a_fusion_does
from benchmarks.gpu.program import Computation, Instruction, Program, ProgramError
from benchmarks.gpu.stages import OTHER, Origin, origin
from benchmarks.gpu.work import Product, Work, matrix_product

# Operations that move nothing: names for what is there, or what XLA makes in the kernel that needs it.
FREE = {
    *("parameter", "constant", "bitcast", "get-tuple-element", "tuple"),
    *("after-all", "partition-id", "iota", "opt-barrier"),
}
NAMES = {"__triton_nested_gemm_fusion": "matrix product", "__triton": "Triton", "__cudnn$fusion": "cuDNN fusion"}


@dataclass
class Kernel:
    """A kernel, the stage of the network that it belongs to, and how often it runs."""

    name: str
    kind: str
    result: str
    origin: Origin
    times: float
    work: Work = field(default_factory=Work)


def kernels_of(program: Program, *, rounds: int) -> list[Kernel]:
    """All kernels of a program.

    Args:
        program: the compiled one.
        rounds: of loops whose length depends on the data.
    """
    return list(_walk(program, program.computations[program.entry], 1, Origin(), rounds))


def unknown_loops(program: Program) -> int:
    """How many loops have a length that depends on the data."""
    return sum(i.op == "while" and _rounds(i) is None for i in program.instructions())


def _rounds(loop: Instruction) -> int | None:
    known = loop.find(r'known_trip_count":\{"n":"(\d+)"\}')
    return int(known) if known else None


def _walk(program: Program, computation: Computation, times: float, outer: Origin, rounds: int) -> Iterator[Kernel]:
    """The kernels of a computation that runs `times` times, called from `outer`."""
    for i in computation.values():
        if i.op in FREE or i.op.endswith(("-done", "-update")):
            continue
        here = origin(program, i)
        here = outer if here.stage == OTHER and outer.stage != OTHER else here
        if i.op == "while":
            known = _rounds(i)
            count = rounds if known is None else known
            yield from _walk(program, _named(program, i, "body"), times * count, here, rounds)
            if known is None:
                checks = times * (count + 1)
                yield from _walk(program, _named(program, i, "condition"), checks, here, rounds)
                yield Kernel(i.name, "wait for the host", "", here, checks, Work(launches=0, waits=1))
        elif i.op in ("conditional", "call", "async-start"):
            pattern = r"(?:to_apply|calls|branch_computations=\{|true_computation|false_computation)=?%([\w.\-]+)"
            for name in re.findall(pattern, i.attributes):
                yield from _walk(program, program.computations[name], times, here, rounds)
        else:
            kind, work, found = _kernel(program, i, computation)
            result = " ".join(map(str, i.results[: 1 if i.op == "custom-call" else 2]))
            yield Kernel(i.name, kind, result, here if found.stage == OTHER else found, times, work)


def _named(program: Program, instruction: Instruction, attribute: str) -> Computation:
    name = instruction.find(attribute + r"=%([\w.\-]+)")
    if name not in program.computations:
        raise ProgramError(f"{instruction.name} has no {attribute}")
    return program.computations[name]


def _kernel(program: Program, i: Instruction, table: Computation) -> tuple[str, Work, Origin]:
    """(kind, work, where from) of one instruction that runs."""
    if i.op in ("fusion", "fusion-start"):
        work, found = what_a_fusion_does(program, i)
        kind = i.find(r'"kind":"(__[a-z_$]+)"')
        return NAMES.get(kind or "", re.sub(r"[.\d]+$", "", i.name)), work, found
    read = sum(table[name].written for name in set(i.operands) if name in table)
    if i.op in ("copy", "copy-start"):
        return "copy", Work(read=read, written=read), Origin()
    if i.op != "custom-call":
        return i.op, Work(read=read, written=i.written), Origin()
    target = i.find(r'custom_call_target="([^"]+)"') or ""
    work = Work(read=read, written=i.written)
    if "conv" in target.lower():
        work.products.append(_convolution(i, table, target))
    elif "gemm" in target.lower() or "matmul" in target.lower():
        work.products.append(_library_product(i, table))
    return target.replace("__cudnn$", "").replace("__cublas$", ""), work, Origin()


def _convolution(i: Instruction, table: Computation, target: str) -> Product:
    """A library's convolution as a matrix product; the window is that of the forward pass in all three directions."""
    result, (first, second) = i.result, (table[name].result for name in i.operands[:2])
    window = math.prod(int(side) for side in (i.find(r"size=([\dx]+)") or "1").split("x"))
    if "BackwardInput" in target:
        inputs, outputs = result.dims[-1], first.dims[-1]
        cells = first.size // outputs
        product = Product(result.size // inputs, inputs, window * outputs, first.dtype)
    elif "BackwardFilter" in target:
        inputs, outputs = first.dims[-1], second.dims[-1]
        cells = second.size // outputs
        product = Product(outputs, window * inputs, cells, first.dtype)
    else:
        inputs, outputs = first.dims[-1], result.dims[-1]
        cells = result.size // outputs
        product = Product(cells, outputs, window * inputs, first.dtype)
    return product._replace(flops=2.0 * cells * outputs * window * inputs, channels=(inputs, outputs))


def _library_product(i: Instruction, table: Computation) -> Product:
    """A product by cuBLAS, whose dimensions stand in its configuration."""

    def numbers(name: str) -> tuple[int, ...]:
        found = i.find(name + r'":\[([^\]]*)\]')
        if found is None:
            raise ProgramError(f"{i.name} does not say its {name}")
        return tuple(int(number) for number in re.findall(r"\d+", found))

    a, b = (table[name].result for name in i.operands[:2])
    return matrix_product(a, b, numbers("lhs_contracting_dimensions"), numbers("lhs_batch_dimensions"))
