"""The GPUs that are planned for, and at what rates: a file of `targets/`, and three guesses of what is reached of it.

Every rate is a guess until a GPU is measured. The datasheet's figures are never reached; `LEVELS` says which share of
them is: in the middle as published measurements of such GPUs have it, and on both sides of that.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

TARGETS = Path(__file__).parent / "targets"


@dataclass(frozen=True)
class Target:
    """A GPU, by its datasheet.

    Attributes:
        name: of the file.
        memory_bytes: of the device.
        memory_bandwidth: bytes a second.
        cache_bandwidth: bytes a second from the L2 cache, which datasheets leave out: a guess.
        flops: a second, of dense matrix products, by type of their factors.
        cores: multiprocessors.
        clock: cycles a second.
        xla: the description that XLA's compiler takes, in the text form of its `GpuTargetConfigProto`.
    """

    name: str
    memory_bytes: float
    memory_bandwidth: float
    cache_bandwidth: float
    flops: dict[str, float]
    cores: int
    clock: float
    xla: str


class Level(NamedTuple):
    """Which share of a datasheet's figures is reached, and what a kernel costs besides its work.

    Attributes:
        memory: share of the memory's and the cache's bandwidth.
        matrix: share of the FLOPs of matrix products.
        simple: share of the operations on single numbers, at half the FLOPs of float32, and of one atomic addition
            for each multiprocessor and cycle.
        launch: seconds from one kernel to the next.
        wait: seconds that the GPU waits where the host decides whether a loop goes on.
        whole_tiles: count what multiprocessors idle when the tiles of a product do not fill them.
    """

    memory: float
    matrix: float
    simple: float
    launch: float
    wait: float
    whole_tiles: bool


LEVELS = {
    "optimistic": Level(memory=0.95, matrix=0.8, simple=1.0, launch=2e-6, wait=7e-6, whole_tiles=False),
    "middle": Level(memory=0.9, matrix=0.71, simple=0.9, launch=3e-6, wait=10e-6, whole_tiles=False),
    "pessimistic": Level(memory=0.85, matrix=0.65, simple=0.7, launch=4e-6, wait=20e-6, whole_tiles=True),
}
LOOP_ROUNDS = 6  # of loops whose length depends on the data: NMS usually takes 3 to 10


def read_target(name: str) -> Target:
    """The target of a name.

    Raises:
        ValueError: there is no such file.
    """
    path = TARGETS / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in TARGETS.glob("*.toml")))
        raise ValueError(f"target: there is no {name}; give one of {known}, or write {path.name}")
    return Target(name, **tomllib.loads(path.read_text()))
