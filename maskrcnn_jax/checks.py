"""Checks of arguments at the door of a public function, so that a slip raises instead of giving plausible numbers.

Shapes, dtypes and options are known while a function is traced, so checking them costs nothing under `jit`. A number
that is traced itself (a computed threshold) passes unchecked. Each error is one sentence with the place, the value and
the remedy: a TypeError for something of the wrong kind, otherwise a ValueError.

`place` begins the sentence: the function and its argument, as in "nms: scores". NumPy and JAX arrays are welcome alike,
and arrays of integers where floats are computed with. JAX is not imported: input workers need these checks without it.
"""

import math
from collections.abc import Collection
from typing import Any

import numpy as np


def one_of(place: str, value: Any, allowed: Collection[Any]) -> None:
    """Refuse an option that is not among those `allowed`.

    >>> one_of("roi_align: reduce", "avg", ("mean", "max"))
    Traceback (most recent call last):
    ValueError: roi_align: reduce is 'avg'; give one of 'mean', 'max'
    """
    if value not in allowed:
        raise ValueError(f"{place} is {value!r}; give one of {', '.join(map(repr, allowed))}")


def whole(place: str, value: Any, *, least: int) -> None:
    """Refuse what is not an integer of at least `least`; for counts and sizes, which fix shapes and cannot be traced.

    >>> whole("nms: max_outputs", -1, least=0)
    Traceback (most recent call last):
    ValueError: nms: max_outputs is -1; give an integer of at least 0
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{place} is {value!r}; give an integer of at least {least}, static under jit")
    if value < least:
        raise ValueError(f"{place} is {value}; give an integer of at least {least}")


def pair(place: str, value: Any, *, order: str = "(height, width)") -> None:
    """Refuse what is not two integers of at least 1.

    >>> pair("clahe: tiles", 8, order="(rows, columns)")
    Traceback (most recent call last):
    TypeError: clahe: tiles is 8; give two integers of at least 1, (rows, columns)
    """
    text = f"{place} is {value!r}; give two integers of at least 1, {order}"
    integers = isinstance(value, tuple | list) and all(isinstance(side, int | np.integer) for side in value)
    if not integers or len(value) != 2:
        raise TypeError(text)
    if min(value) < 1:
        raise ValueError(text)


def in_range(place: str, value: Any, low: Any, high: Any = math.inf, *, above: bool = False, remedy: str = "") -> None:
    """Refuse a static number outside [low, high], or (low, high] with `above`, and NaN.

    >>> in_range("nms: iou_threshold", 50, 0, 1)
    Traceback (most recent call last):
    ValueError: nms: iou_threshold is 50; give a number from 0 to 1
    """
    numbers = int, float, np.number
    if not isinstance(value, numbers) and getattr(value, "shape", None) != ():
        raise TypeError(f"{place} is {value!r}; give a number")
    if not all(isinstance(number, numbers) for number in (value, low, high)):
        return  # arrays of one number, which may be traced
    if not low <= value <= high or (above and value == low):
        start = f"above {low}" if above else f"from {low}" if math.isfinite(high) else f"of at least {low}"
        end = f" to {high}" if math.isfinite(high) else ""
        raise ValueError(f"{place} is {value}; {remedy or f'give a number {start}{end}'}")


def shape(place: str, array: Any, wanted: str, *, remedy: str = "") -> None:
    """Refuse an array whose shape is not `wanted`: names for free sides, numbers for fixed ones; a first "*name" stands
    for any number of sides.

    >>> shape("area: boxes", np.zeros((3, 5)), "*n 4")
    Traceback (most recent call last):
    ValueError: area: boxes has shape [3, 5]; give an array [..., 4]
    """
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(f"{place} is a {type(array).__name__}; give a NumPy or JAX array")
    fixed = [side for side in wanted.split() if side[0] != "*"]
    last = array.shape[-len(fixed) :] if "*" in wanted else array.shape
    if len(last) != len(fixed) or any(w.isdigit() and int(w) != n for w, n in zip(fixed, last, strict=True)):
        form = ", ".join((["..."] if "*" in wanted else []) + fixed)
        raise ValueError(f"{place} has shape {list(array.shape)}; {remedy or f'give an array [{form}]'}")


def same_length(function: str, **arrays: Any) -> None:
    """Refuse arrays that differ in length, the number of rows; None is left out.

    >>> same_length("nms", boxes=np.zeros((3, 4)), scores=np.zeros(5), valid=None)
    Traceback (most recent call last):
    ValueError: nms: boxes has 3 rows but scores has 5; give as many of both
    """
    (first, rows), *others = ((name, array.shape[0]) for name, array in arrays.items() if array is not None)
    for name, other in others:
        if other != rows:
            raise ValueError(f"{function}: {first} has {rows} rows but {name} has {other}; give as many of both")


def kind(place: str, array: Any, wanted_kind: type, wanted: str) -> None:
    """Refuse an array that is not of booleans, integers or bytes, checked by `shape` as well; None is left out.

    >>> kind("nms: valid", np.ones(3), np.bool_, "n")
    Traceback (most recent call last):
    TypeError: nms: valid is float64; give booleans
    """
    if array is None:
        return
    shape(place, array, wanted)
    if not np.issubdtype(array.dtype, wanted_kind):
        name = {np.bool_: "booleans", np.integer: "integers", np.uint8: "uint8 from 0 to 255"}[wanted_kind]
        raise TypeError(f"{place} is {array.dtype}; give {name}")


def as_floats(place: str, array: Any, wanted: str, *, remedy: str = "") -> Any:
    """The array if it is of floats, as float32 if it is of integers; checked by `shape`.

    >>> as_floats("nms: scores", np.array([3, 1]), "n")
    array([3., 1.], dtype=float32)
    """
    shape(place, array, wanted, remedy=remedy)
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(np.float32)
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError(f"{place} is {array.dtype}; give floats or integers")
    return array


def as_boxes(place: str, boxes: Any, wanted: str = "*n 4") -> Any:
    """`as_floats` for boxes [x1, y1, x2, y2] in pixels, which 16 bits are too few for.

    >>> as_boxes("encode: boxes", np.array([[0, 0, 3, 5]])).dtype
    dtype('float32')
    """
    boxes = as_floats(place, boxes, wanted)
    if boxes.dtype.itemsize < 4:
        raise TypeError(f"{place} is {boxes.dtype}, too coarse for pixels; give boxes.astype(jnp.float32)")
    return boxes
