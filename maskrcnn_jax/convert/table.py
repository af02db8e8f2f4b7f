"""From the arrays of a file to the parameters of our model: by a table that is total, or not at all.

A rule takes some arrays of the file, each of an exact shape, to some of our parameters. Every array of the file must be
used by exactly one rule or be listed as ignored with a reason, and every parameter be filled by exactly one rule;
whatever is wrong is reported at once, before anything is converted.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from maskrcnn_jax.checkpoint import CheckpointError
from maskrcnn_jax.convert.pickles import Entry, PickleError

Shape = tuple[int, ...]


class ConversionError(CheckpointError):
    """A file that is not the weights it should be; the message lists all that is wrong with it."""


class Rule(NamedTuple):
    """`make(*sources)` gives the arrays of `targets`, in order, each of the shape our model has there."""

    sources: Mapping[str, Shape]  # names in the file, with the shapes they must have
    targets: tuple[str, ...]
    make: Callable[..., tuple[np.ndarray, ...]]


def fold_norm(
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    bias: np.ndarray | float = 0.0,
    *,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift [c] of a batch norm after a convolution with `bias`, by its stored statistics, in float64:

        gamma (x + bias - mean) / sqrt(variance + epsilon) + beta = scale x + shift        (Ioffe and Szegedy 2015)

    >>> one, zero, variance = np.ones(1), np.zeros(1), np.array([0.25])
    >>> [part.tolist() for part in fold_norm(one, zero, one, variance, epsilon=0.0)]
    [[2.0], [-2.0]]
    """
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in (gamma, beta, mean, variance))
    with np.errstate(divide="ignore", invalid="ignore"):  # a file's nonsense comes out as such, and is reported
        scale = gamma / np.sqrt(variance + epsilon)
        return scale, beta + (np.asarray(bias, np.float64) - mean) * scale


def convert(
    entries: Mapping[str, Entry], rules: Iterable[Rule], wanted: Mapping[str, Shape], ignored: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Our parameters by name, float32. `wanted`: their shapes; `ignored`: pattern of a name to the reason.

    Raises ConversionError with everything that is wrong.
    """
    rules = list(rules)
    problems = _mismatches(entries, rules, wanted, ignored)
    if problems:
        raise ConversionError("\n  ".join([f"{len(problems)} things are wrong:", *problems]))

    made: dict[str, np.ndarray] = {}
    for rule in rules:
        try:
            arrays = [entries[name].read() for name in rule.sources]
        except (PickleError, OSError) as error:
            raise ConversionError(f"{', '.join(rule.sources)}: {error}") from error
        bad = [n for n, a in zip(rule.sources, arrays, strict=True) if a.dtype.kind != "f" or not np.isfinite(a).all()]
        if bad:
            problems += [f"{name} holds NaN, infinity, or no numbers with a fraction" for name in bad]
            continue
        parts = [np.asarray(part, np.float32) for part in rule.make(*arrays)]
        for target, part in zip(rule.targets, parts, strict=True):
            if part.shape != wanted[target] or not np.isfinite(part).all():
                problems.append(f"{target} would be {part.shape} or not finite, made of {', '.join(rule.sources)}")
        made |= dict(zip(rule.targets, parts, strict=True))
    if problems:
        raise ConversionError("\n  ".join([f"{len(problems)} things are wrong:", *problems]))
    return made


def _mismatches(
    entries: Mapping[str, Entry], rules: list[Rule], wanted: Mapping[str, Shape], ignored: Mapping[str, str]
) -> list[str]:
    used = [name for rule in rules for name in rule.sources]
    filled = [name for rule in rules for name in rule.targets]
    shapes = {name: tuple(shape) for rule in rules for name, shape in rule.sources.items()}
    unused = [n for n in entries if n not in shapes and not any(re.fullmatch(p, n) for p in ignored)]
    return [
        *(f"missing: {n} {shapes[n]}" for n in shapes if n not in entries),
        *(
            f"shape of {n}: {entries[n].shape} in the file, {shape} expected"
            for n, shape in shapes.items()
            if n in entries and tuple(entries[n].shape) != shape
        ),
        *(f"not known: {n} {tuple(entries[n].shape)}" for n in unused),
        *(f"used by more than one rule: {n}" for n in sorted({n for n in used if used.count(n) > 1})),
        *(f"filled by more than one rule: {n}" for n in sorted({n for n in filled if filled.count(n) > 1})),
        *(f"filled by no rule: {n}" for n in wanted if n not in filled),
        *(f"no parameter of the model: {n}" for n in filled if n not in wanted),
    ]
