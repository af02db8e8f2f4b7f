"""From kernels to a plan: time by stage and level of rates, the kernels that cost most, and the memory by batch."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.gpu.kernels import Kernel
from benchmarks.gpu.price import Price, Rates, price
from benchmarks.gpu.stages import BACKWARD, ORDER, OTHER
from benchmarks.gpu.target import LEVELS, Target

MOST_FLOPS_APART, MOST_OTHER = 0.02, 0.03
MIDDLE = "middle"


class Stage(NamedTuple):
    """What the kernels of a stage cost together, at middle rates."""

    name: str
    seconds: float
    gigabytes: float
    gigaflops: float
    kernels: int
    bound: str  # by what most of the time is


class Alike(NamedTuple):
    """Kernels of one kind, result and line of the source, together, at middle rates."""

    kind: str
    result: str
    line: str
    stage: str
    bound: str
    seconds: float
    times: float


@dataclass(frozen=True)
class Plan:
    """An estimate of one program.

    Attributes:
        batch: images.
        kernels: that run in it.
        prices: of every kernel by level of rates.
        model_flops: of the batch, counted before compiling.
        temporary: bytes beside arguments and results.
        memory: bytes in all.
    """

    batch: int
    kernels: list[Kernel]
    prices: Mapping[str, list[Price]]
    model_flops: float
    temporary: int
    memory: int

    def seconds(self, level: str = MIDDLE) -> float:
        """Of one run, at a level's rates."""
        return sum(price.seconds for price in self.prices[level])

    @property
    def flops(self) -> float:
        """Of the matrix products and convolutions in the compiled program."""
        return sum(kernel.times * kernel.work.flops for kernel in self.kernels)

    @property
    def launches(self) -> int:
        """Kernels that run, those of loops once a round."""
        return round(sum(kernel.times * kernel.work.launches for kernel in self.kernels))

    @property
    def gigabytes(self) -> float:
        """Read and written."""
        return sum(kernel.times * kernel.work.moved for kernel in self.kernels) / 1e9

    def stages(self) -> list[Stage]:
        """In the order of the network, forward before backward."""
        names = {kernel.origin.stage for kernel in self.kernels}
        return [self._stage(name) for name in sorted(names, key=_place)]

    def _stage(self, name: str) -> Stage:
        own = [(k, p) for k, p in zip(self.kernels, self.prices[MIDDLE], strict=True) if k.origin.stage == name]
        bounds: dict[str, float] = defaultdict(float)
        for _, cost in own:
            bounds[cost.bound] += cost.seconds
        return Stage(
            name,
            sum(cost.seconds for _, cost in own),
            sum(k.times * k.work.moved for k, _ in own) / 1e9,
            sum(k.times * k.work.flops for k, _ in own) / 1e9,
            round(sum(k.times * k.work.launches for k, _ in own)),
            max(bounds, key=bounds.__getitem__),
        )

    def costliest(self, count: int) -> list[Alike]:
        """The kernels that take most time at middle rates; those that differ in their name alone are one."""
        found: dict[tuple[str, ...], Alike] = {}
        for kernel, cost in zip(self.kernels, self.prices[MIDDLE], strict=True):
            key = kernel.kind, kernel.result, kernel.origin.line, kernel.origin.stage
            before = found.get(key, Alike(*key, cost.bound, 0.0, 0.0))
            seconds, times = before.seconds + cost.seconds, before.times + kernel.times
            found[key] = before._replace(seconds=seconds, times=times)
        return sorted(found.values(), key=lambda alike: -alike.seconds)[:count]

    def faults(self) -> list[str]:
        """Why this plan must not be believed, in sentences."""
        found = []
        apart = self.flops / self.model_flops - 1
        if abs(apart) > MOST_FLOPS_APART:
            found.append(
                f"the compiled program has {apart:+.1%} more FLOPs than the network needs, "
                f"{self.flops / self.batch / 1e9:.1f} G an image: XLA computes something else, or its text was misread"
            )
        other = sum(stage.seconds for stage in self.stages() if stage.name == OTHER) / self.seconds()
        if other > MOST_OTHER:
            found.append(f"{other:.1%} of the time belongs to no stage: complete RULES in benchmarks/gpu/stages.py")
        return found

    def to_dict(self, costliest: int) -> dict[str, Any]:
        """For the file of results."""
        return {
            "batch": self.batch,
            "estimated_seconds": {level: self.seconds(level) for level in self.prices},
            "estimated_images_per_second": {level: self.batch / self.seconds(level) for level in self.prices},
            "kernels": self.launches,
            "gigabytes_moved": self.gigabytes,
            "flops_an_image": self.flops / self.batch,
            "model_flops_an_image": self.model_flops / self.batch,
            "temporary_bytes": self.temporary,
            "memory_bytes": self.memory,
            "stages": [stage._asdict() for stage in self.stages()],
            "costliest": [alike._asdict() for alike in self.costliest(costliest)],
            "faults": self.faults(),
        }


def make_plan(
    kernels: list[Kernel], target: Target, *, batch: int, model_flops: float, temporary: int, memory: int
) -> Plan:
    """The plan of a program's kernels on a target."""
    prices = {name: [price(kernel, Rates(target, level)) for kernel in kernels] for name, level in LEVELS.items()}
    return Plan(batch, kernels, prices, model_flops, temporary, memory)


def _place(stage: str) -> tuple[int, str]:
    name = stage.removesuffix(BACKWARD)
    return (ORDER.index(name) if name in ORDER else len(ORDER)), stage


def largest_batch(memory: Mapping[int, int], available: float) -> int:
    """The largest batch that fits, where memory grows by the same for every image.

    Args:
        memory: bytes by batch, of two batches.
        available: bytes of the device.

    >>> largest_batch({16: 36, 32: 68}, 100)
    48
    """
    (few, least), (many, most) = sorted(memory.items())
    each = (most - least) / (many - few)
    return int((available - least) // each) + few
