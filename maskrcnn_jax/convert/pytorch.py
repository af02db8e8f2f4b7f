"""Conversion rules for PyTorch's layouts, for torchvision and Detectron2.

| layer                  | PyTorch                 | here                     |
| convolution            | [out, in, row, column]  | [row, column, in, out]   |
| transposed convolution | [in, out, row, column]  | [row, column, in, out]   |
| linear                 | [out, in]               | [in, out]                |
| flattened RoI          | (channel, row, column)  | (row, column, channel)   |
"""

from collections.abc import Callable, Mapping

import numpy as np

from maskrcnn_jax.config import RESNET_DEPTHS
from maskrcnn_jax.convert.table import Rule, Shape, fold_norm

Reorder = Callable[[np.ndarray], np.ndarray]  # of the output channels, the first axis in PyTorch


def unchanged(array: np.ndarray) -> np.ndarray:
    """No reordering."""
    return array


def conv(
    wanted: Mapping[str, Shape],
    target: str,
    source: str,
    *,
    outputs: int | None = None,
    reorder: Reorder = unchanged,
    reverse_inputs: bool = False,
) -> list[Rule]:
    """Kernel, and bias where our layer has one. `outputs`: channels in the file, if not the same as ours."""
    h, w, i, o = wanted[f"{target}.kernel"]
    outputs = outputs or o

    def kernel(weight: np.ndarray) -> tuple[np.ndarray]:
        weight = weight[:, ::-1] if reverse_inputs else weight
        return (reorder(weight).transpose(2, 3, 1, 0),)

    rules = [Rule({f"{source}.weight": (outputs, i, h, w)}, (f"{target}.kernel",), kernel)]
    if f"{target}.bias" in wanted:
        rules.append(Rule({f"{source}.bias": (outputs,)}, (f"{target}.bias",), lambda bias: (reorder(bias),)))
    return rules


def transposed_conv(wanted: Mapping[str, Shape], target: str, source: str) -> list[Rule]:
    """The transposed convolution of the mask head."""
    h, w, i, o = wanted[f"{target}.kernel"]
    return [
        Rule({f"{source}.weight": (i, o, h, w)}, (f"{target}.kernel",), lambda k: (k.transpose(2, 3, 0, 1),)),
        Rule({f"{source}.bias": (o,)}, (f"{target}.bias",), lambda bias: (bias,)),
    ]


def linear(
    wanted: Mapping[str, Shape],
    target: str,
    source: str,
    *,
    bins: int | None = None,
    outputs: int | None = None,
    reorder: Reorder = unchanged,
) -> list[Rule]:
    """Kernel and bias; with `bins` the inputs are a flattened RoI with that many bins per side."""
    i, o = wanted[f"{target}.kernel"]
    outputs = outputs or o

    def kernel(weight: np.ndarray) -> tuple[np.ndarray]:
        weight = reorder(weight)
        if bins:
            weight = weight.reshape(o, i // bins**2, bins, bins).transpose(0, 2, 3, 1).reshape(o, i)
        return (weight.T,)

    return [
        Rule({f"{source}.weight": (outputs, i)}, (f"{target}.kernel",), kernel),
        Rule({f"{source}.bias": (outputs,)}, (f"{target}.bias",), lambda bias: (reorder(bias),)),
    ]


def norm(wanted: Mapping[str, Shape], target: str, source: str, epsilon: float) -> list[Rule]:
    """A frozen batch norm as scale and shift."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return [
        Rule(
            {f"{source}.{part}": wanted[f"{target}.scale"] for part in parts},
            (f"{target}.scale", f"{target}.shift"),
            lambda *statistics: fold_norm(*statistics, epsilon=epsilon),
        )
    ]


def body(
    wanted: Mapping[str, Shape],
    depths: tuple[int, ...],
    theirs: str,
    *,
    norm_name: str,
    shortcut: tuple[str, str],
    epsilon: float,
) -> list[Rule]:
    """The blocks of a ResNet. `theirs`: a block's name, in which {layer} counts the stages from 1, as torchvision does,
    {c} from 2, as Detectron2 does (C2 to C5), and {block} from 0. Below it, `norm_name` is that of the norm after
    convolution {i}, and `shortcut` those of the shortcut's convolution and norm.
    """
    table = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            our, their = (
                f"backbone.stages.{stage}.blocks.{block}",
                theirs.format(layer=stage + 1, c=stage + 2, block=block),
            )
            for i in (1, 2, 3):
                if f"{our}.conv{i}.kernel" in wanted:  # a basic block has two
                    table += conv(wanted, f"{our}.conv{i}", f"{their}.conv{i}")
                    table += norm(wanted, f"{our}.norm{i}", f"{their}.{norm_name.format(i=i)}", epsilon)
            if f"{our}.shortcut.conv.kernel" in wanted:
                table += conv(wanted, f"{our}.shortcut.conv", f"{their}.{shortcut[0]}")
                table += norm(wanted, f"{our}.shortcut.norm", f"{their}.{shortcut[1]}", epsilon)
    return table


def resnet_depth(names: Mapping[str, object], prefix: str, *, basic: bool = False) -> int:
    """Layers of the ResNet whose third stage (C4) has as many blocks as the names have numbers after `prefix`: 50 or
    101, or with `basic` blocks 18 or 34.

    Any other number counts as the deeper one; the conversion then lists the arrays that are missing.
    """
    blocks = {name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)}
    shallow, deep = (18, 34) if basic else (50, 101)
    return shallow if RESNET_DEPTHS[shallow][2] == len(blocks) else deep
