"""Reads an optimized XLA program from its text (HLO), as `jax.stages.Compiled.as_text()` gives it.

A program is a set of named computations; an instruction of the entry computation is roughly one kernel, and what a
fused kernel computes is a computation of its own. The tables of files, functions and lines in front of the program say
which line of Python each instruction comes from.

The text is no stable format. What cannot be read raises `ProgramError`, and `plan.check` compares the FLOPs found
here with those counted from the JAX program.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    **dict.fromkeys(("s4", "u4"), 0.5),
    "token": 0,
}


class ProgramError(ValueError):
    """The text is not what this version of the reader knows."""


class Array(NamedTuple):
    """Type and shape of an array.

    >>> Array("bf16", (3, 4)).bytes
    24
    """

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Size in bytes."""
        return self.size * BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


class Place(NamedTuple):
    """A line of Python."""

    file: str
    function: str
    line: int


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; `results` are several where it returns a tuple."""

    name: str
    op: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool = False

    @property
    def result(self) -> Array:
        """The first result."""
        return self.results[0]

    @property
    def written(self) -> float:
        """Bytes of the results, without the workspace that library calls return after theirs."""
        results = self.results
        if self.op == "custom-call" and len(results) == 2 and results[1].dtype in ("u8", "s8"):
            results = results[:1]
        return sum(array.bytes for array in results)

    def find(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def numbers(self, name: str) -> list[int]:
        """The list of numbers of an attribute `name={1,2}`, empty where there is none."""
        return [int(number) for number in (self.find(name + r"=\{([\d,]*)\}") or "").split(",") if number]


Computation = dict[str, Instruction]


@dataclass
class Program:
    """Computations by name, the name of the first one, and the stacks of Python lines by number."""

    computations: dict[str, Computation] = field(default_factory=dict)
    entry: str = ""
    stacks: dict[int, list[Place]] = field(default_factory=dict)

    def stack(self, instruction: Instruction) -> list[Place]:
        """The Python lines that an instruction comes from, innermost first."""
        number = instruction.find(r"stack_frame_id=(\d+)")
        return self.stacks.get(int(number), []) if number else []

    def called(self, instruction: Instruction) -> Computation:
        """The computation of a fusion."""
        name = instruction.find(r"calls=%([\w.\-]+)")
        if name not in self.computations:
            raise ProgramError(f"{instruction.name} is a fusion without a computation")
        return self.computations[name]

    def instructions(self) -> Iterator[Instruction]:
        """Those of all computations."""
        for computation in self.computations.values():
            yield from computation.values()


ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\]")
HEAD = re.compile(r"^(ENTRY )?%([\w.\-]+) \(")
LINE = re.compile(r"^  (ROOT )?%([\w.\-]+) = ")
TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


def read_program(text: str) -> Program:
    """The program of a text.

    Raises:
        ProgramError: it is of another form.
    """
    program, current = Program(), None
    tables: dict[str, list[str]] = {name: [] for name in TABLES}
    table = None
    for line in text.splitlines():
        if line in TABLES:
            table = line
        elif head := HEAD.match(line):
            table, current = None, program.computations.setdefault(head[2], {})
            program.entry = head[2] if head[1] else program.entry
        elif table and line:
            tables[table].append(line)
        elif current is not None and (start := LINE.match(line)):
            instruction = _read_line(line[start.end() :], start[2], bool(start[1]))
            current[instruction.name] = instruction
    if not program.entry:
        raise ProgramError("no ENTRY computation: not the text of an optimized XLA program, or of a newer form")
    program.stacks = _read_stacks(tables)
    return program


def _read_line(rest: str, name: str, root: bool) -> Instruction:
    """An instruction from the text after its name: `TYPE op(OPERANDS), ATTRIBUTES`."""
    try:
        end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
        results, rest = _arrays(rest[:end]), rest[end:].lstrip()
        op = rest[: rest.index("(")]
        close = _closing(rest, len(op))
    except ValueError as error:
        raise ProgramError(f"instruction {name} cannot be read: {rest[:100]}") from error
    inner = rest[len(op) + 1 : close - 1]
    operands = () if op in ("parameter", "constant") else tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(name, op, results, operands, rest[close:], root)


def _closing(text: str, start: int) -> int:
    """The index after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i + 1
    raise ValueError("unclosed bracket")


def _arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type, layouts left out."""
    found = ARRAY.findall(re.sub(r"\{[^{}]*\}", "", text))
    return tuple(Array(t, tuple(int(d.strip("<=")) for d in dims.split(",") if d)) for t, dims in found if t in BYTES)


def _read_stacks(tables: dict[str, list[str]]) -> dict[int, list[Place]]:
    """The stack of every frame, innermost first, from the four tables."""
    names = {
        table: {int(m[1]): m[2] for line in tables[table] if (m := re.match(r'^(\d+) "(.*)"$', line))}
        for table in ("FileNames", "FunctionNames")
    }
    places, frames = {}, {}
    for line in tables["FileLocations"]:
        if m := re.match(r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)", line):
            places[int(m[1])] = Place(names["FileNames"][int(m[2])], names["FunctionNames"][int(m[3])], int(m[4]))
    for line in tables["StackFrames"]:
        if m := re.match(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", line):
            frames[int(m[1])] = places[int(m[2])], int(m[3] or 1) - 1  # parents are counted from 1, and 0 is none
    stacks = {}
    for number in frames:
        stack, frame = [], number
        while frame in frames and len(stack) < 1000:
            place, frame = frames[frame]
            stack.append(place)
        stacks[number] = stack
    return stacks
