"""What must not come back into the programs for GPUs; each rule kept a mistake that costs a lot and shows nowhere.

The rules are about the compiled program, not about times.
"""

from collections.abc import Iterable

from benchmarks.gpu.kernels import Kernel
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.program import Program

MOST_CONSTANT = 1 << 20  # bytes
FEATURE_MAP = 1 << 20  # elements from which an array counts as a feature map
MOST_KERNELS = 1450
MOST_TEMPORARY = {16: 6.5, 64: 24.0}  # GiB by batch


def broken(program: Program, plan: Plan, *, training: bool) -> list[str]:
    """Which rules a program breaks, in sentences.

    Args:
        program: the compiled one.
        plan: of it.
        training: whether it is a training step, for which there are more rules.
    """
    found = [*_types(program), *_constants(program), *_loops(plan.kernels)]
    if training:
        found += [*_fused(program), *_sizes(plan)]
    return found


def _types(program: Program) -> Iterable[str]:
    for i in program.instructions():
        types = {array.dtype for array in i.results}
        if i.op in ("scatter", "select-and-scatter") and types & {"bf16", "f16"}:
            yield f"{i.name} scatters in {i.result}: a GPU adds 16 bits atomically by trying again and again"
        if "f64" in types:
            yield f"{i.name} is {i.result}: float64 is slow, and nothing here needs it"


def _constants(program: Program) -> Iterable[str]:
    for i in program.instructions():
        if i.op == "constant" and i.results and i.written > MOST_CONSTANT:
            yield f"{i.name} is a constant of {i.written / 2**20:.1f} MiB: pass it as an argument"


def _loops(kernels: Iterable[Kernel]) -> Iterable[str]:
    for kernel in kernels:
        if kernel.times > 1 and kernel.work.atomics > FEATURE_MAP:
            yield f"{kernel.name} adds atomically in a loop, {kernel.times:.0f} times {kernel.work.atomics:.2g} numbers"


def _fused(program: Program) -> Iterable[str]:
    modes = [i.find(r'"activation_mode":"(\w+)"') for i in program.instructions() if i.op == "custom-call"]
    if "kRelu" not in modes:
        yield "no convolution has its ReLU fused"


def _sizes(plan: Plan) -> Iterable[str]:
    if plan.batch == min(MOST_TEMPORARY) and plan.launches > MOST_KERNELS:
        yield f"{plan.launches} kernels, over {MOST_KERNELS}"
    limit = MOST_TEMPORARY.get(plan.batch)
    if limit is not None and plan.temporary > limit * 2**30:
        yield f"{plan.temporary / 2**30:.1f} GiB of temporary memory, over {limit}"
