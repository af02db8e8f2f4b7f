"""Conversion of a file's arrays to the model's parameters by a complete table of rules.

A rule maps arrays of the file, of given shapes, to parameters of the model. Every array must be used by exactly one
rule, or be listed as ignored with a reason, and every parameter must be set by exactly one rule. All errors are
reported together, before anything is converted.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from maskrcnn_jax.checkpoint import CheckpointError
from maskrcnn_jax.convert.pickles import Entry, PickleError

Shape = tuple[int, ...]
Classes = tuple[tuple[int, str], ...]  # (id, name), background first


class ConversionError(CheckpointError):
    """A file does not contain the expected weights; the message lists all errors."""


class Rule(NamedTuple):
    """`make(*sources)` returns the arrays of `targets`, in order and of the model's shapes."""

    sources: Mapping[str, Shape]  # names and shapes in the file
    targets: tuple[str, ...]
    make: Callable[..., tuple[np.ndarray, ...]]


MAX_CLASSES = 10_000


def classes_of(weights: Entry | None, published: Classes, *, axis: int) -> Classes:
    """The classes of a file, background first: those of the published file, if they are as many; otherwise they are
    numbered, since files do not name them. `axis` of the `weights` of the last layer has as many numbers as classes.

    >>> classes_of(Entry((3, 1024), lambda: np.zeros(0)), ((0, "background"), (1, "person")), axis=0)
    ((0, 'background'), (1, 'class 1'), (2, 'class 2'))
    """
    count = weights.shape[axis] if weights and weights.shape else 0
    if count == len(published) or not 2 <= count <= MAX_CLASSES:
        return published
    return (published[0], *((number, f"class {number}") for number in range(1, count)))


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
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN and infinity are reported by `convert`
        scale = gamma / np.sqrt(variance + epsilon)
        return scale, beta + (np.asarray(bias, np.float64) - mean) * scale


def convert(
    entries: Mapping[str, Entry], rules: Iterable[Rule], wanted: Mapping[str, Shape], ignored: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The model's parameters from a file's arrays.

    Args:
        entries: the file's arrays by name.
        rules: which arrays make which parameters.
        wanted: shapes of the model's parameters by name.
        ignored: patterns of names that no rule uses, each with its reason.

    Returns:
        Parameters by name, float32.

    Raises:
        ConversionError: lists every array that no rule uses, every parameter that none makes, and every wrong shape.
    """
    rules = list(rules)
    problems = _mismatches(entries, rules, wanted, ignored)
    if problems:
        raise ConversionError("\n  ".join([f"{len(problems)} errors:", *problems]))

    made: dict[str, np.ndarray] = {}
    for rule in rules:
        try:
            arrays = [entries[name].read() for name in rule.sources]
        except (PickleError, OSError) as error:
            raise ConversionError(f"{', '.join(rule.sources)}: {error}") from error
        bad = [n for n, a in zip(rule.sources, arrays, strict=True) if a.dtype.kind != "f" or not np.isfinite(a).all()]
        if bad:
            problems += [f"{name} has NaN or infinite values, or is not of a floating-point dtype" for name in bad]
            continue
        parts = [np.asarray(part, np.float32) for part in rule.make(*arrays)]
        for target, part in zip(rule.targets, parts, strict=True):
            if part.shape != wanted[target] or not np.isfinite(part).all():
                problems.append(f"{target} has shape {part.shape} or is not finite, from {', '.join(rule.sources)}")
        made |= dict(zip(rule.targets, parts, strict=True))
    if problems:
        raise ConversionError("\n  ".join([f"{len(problems)} errors:", *problems]))
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
        *(f"unknown: {n} {tuple(entries[n].shape)}" for n in unused),
        *(f"used by more than one rule: {n}" for n in sorted({n for n in used if used.count(n) > 1})),
        *(f"set by more than one rule: {n}" for n in sorted({n for n in filled if filled.count(n) > 1})),
        *(f"set by no rule: {n}" for n in wanted if n not in filled),
        *(f"not a parameter of the model: {n}" for n in filled if n not in wanted),
    ]
