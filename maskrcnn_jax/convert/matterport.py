"""Matterport's mask_rcnn_coco.h5 (ResNet101, Keras 2, TensorFlow 1): reading, names and conversion rules.

The layouts are the same as here (NHWC, HWIO), except: every convolution has a bias besides its norm, whose epsilon is
1e-3; the RPN has two logits per anchor, background and foreground, whose difference as one logit gives the same
probability; boxes and deltas are (y, x, height, width); transposed kernels are [row, column, out, in]; the box head's
7x7 convolution over 7x7 bins is a linear layer here. The norms of both heads are folded into their layers.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.convert.pickles import Entry
from maskrcnn_jax.convert.table import ConversionError, Rule, Shape, classes_of, fold_norm

HDF5_START = b"\x89HDF\r\n\x1a\n"
EPSILON = 1e-3
IGNORED: dict[str, str] = {}
CLASS_WEIGHTS = "mrcnn_class_logits/kernel"  # a column a class
BLOCK_NAMES = "abcdefghijklmnopqrstuvwxyz"
STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")


@contextmanager
def open_h5(path: Path) -> Iterator[dict[str, Entry]]:
    """Arrays by "layer/weight", the last two parts of their paths. Raises ConversionError."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ConversionError('HDF5 files are read with h5py: pip install "maskrcnn-jax[convert]"') from error
    entries: dict[str, Entry] = {}

    def visit(group: Any, place: str) -> None:
        for key in group:
            # Soft and external links could form cycles, or read other files.
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ConversionError(f"{place}{key} is a link, which is not allowed in weight files")
            item = group[key]
            if isinstance(item, h5py.Group):
                if key == "vars":
                    raise ConversionError(
                        "written by Keras 3 (.weights.h5), which numbers arrays where Matterport's program names them; "
                        "load it there, and save it with Keras 2's save_weights"
                    )
                visit(item, f"{place}{key}/")
            elif item.is_virtual or item.external:
                raise ConversionError(f"{place}{key} refers to another file")
            else:
                name = "/".join(f"{place}{key}".split("/")[-2:]).removesuffix(":0")
                if name in entries:
                    raise ConversionError(f"{name} occurs twice")
                entries[name] = Entry(tuple(item.shape), lambda item=item: item[()])

    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path))
            # In a file of a whole model the weights are in a group of their own, next to the optimizer's.
            visit(file.get("model_weights", file), "")
        except ConversionError:
            raise
        except (OSError, RuntimeError, KeyError) as error:
            raise ConversionError(f"the file is cut short or damaged ({error})") from error
        yield entries


def is_matterport(names: Mapping[str, Entry]) -> bool:
    """Whether the names are those of Matterport's Mask R-CNN."""
    return any(name.startswith("mrcnn_") for name in names)


def config(names: Mapping[str, Entry]) -> MaskRCNNConfig:
    """`matterport_coco`, with the file's number of classes."""
    preset = MaskRCNNConfig.matterport_coco()
    return dataclasses.replace(preset, classes=classes_of(names.get(CLASS_WEIGHTS), preset.classes, axis=-1))


def _xyxy(columns: np.ndarray) -> np.ndarray:
    """Last axis of (dy, dx, dh, dw) times n -> (dx, dy, dw, dh) times n.

    >>> _xyxy(np.arange(8)).tolist()
    [1, 0, 3, 2, 5, 4, 7, 6]
    """
    return columns.reshape(*columns.shape[:-1], -1, 4)[..., [1, 0, 3, 2]].reshape(columns.shape)


def _one_logit(columns: np.ndarray) -> np.ndarray:
    """Last axis of (background, foreground) times n -> n differences."""
    pairs = columns.reshape(*columns.shape[:-1], -1, 2)
    return pairs[..., 1] - pairs[..., 0]


def _layer(wanted: Mapping[str, Shape], target: str, source: str, change: Any = None, times: float = 1) -> list[Rule]:
    """Kernel and bias; `change` is applied along the output channels, of which the file has `times` as many."""
    change = change or (lambda array: array)
    *others, outputs = wanted[f"{target}.kernel"]
    outputs = int(outputs * times)
    return [
        Rule({f"{source}/kernel": (*others, outputs)}, (f"{target}.kernel",), lambda k: (change(k),)),
        Rule({f"{source}/bias": (outputs,)}, (f"{target}.bias",), lambda b: (change(b),)),
    ]


def _layer_with_norm(
    wanted: Mapping[str, Shape], target: str, source: str, norm: str, kernel_shape: Shape, epsilon: float
) -> list[Rule]:
    """A layer of a head with the norm after it folded in."""

    def fold(
        kernel: np.ndarray, bias: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        scale, shift = fold_norm(gamma, beta, mean, var, bias, epsilon=epsilon)
        return (kernel * scale).reshape(wanted[f"{target}.kernel"]), shift

    c = kernel_shape[-1:]
    sources = {f"{source}/kernel": kernel_shape, f"{source}/bias": c} | {f"{norm}/{part}": c for part in STATISTICS}
    return [Rule(sources, (f"{target}.kernel", f"{target}.bias"), fold)]


def _backbone_layer(
    wanted: Mapping[str, Shape], conv: str, norm: str, source: str, source_norm: str, epsilon: float
) -> list[Rule]:
    """A convolution of the backbone, its bias folded into the shift of the norm after it."""
    shape = wanted[f"{conv}.kernel"]
    c = shape[-1:]
    return [
        Rule({f"{source}/kernel": shape}, (f"{conv}.kernel",), lambda kernel: (kernel,)),
        Rule(
            {f"{source_norm}/{part}": c for part in STATISTICS} | {f"{source}/bias": c},
            (f"{norm}.scale", f"{norm}.shift"),
            lambda *parts: fold_norm(*parts, epsilon=epsilon),
        ),
    ]


def rules(wanted: Mapping[str, Shape], depths: tuple[int, ...], *, epsilon: float) -> list[Rule]:
    """All conversion rules. `wanted`: shapes of our parameters."""
    table = _backbone_layer(wanted, "backbone.stem", "backbone.stem_norm", "conv1", "bn_conv1", epsilon)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours, theirs = f"backbone.stages.{stage}.blocks.{block}", f"{stage + 2}{BLOCK_NAMES[block]}_branch"
            pairs = [(f"conv{i}", f"norm{i}", f"2{'abc'[i - 1]}") for i in (1, 2, 3)]
            for conv, norm, branch in pairs + ([("shortcut.conv", "shortcut.norm", "1")] if block == 0 else []):
                table += _backbone_layer(
                    wanted, f"{ours}.{conv}", f"{ours}.{norm}", f"res{theirs}{branch}", f"bn{theirs}{branch}", epsilon
                )
    for level in range(4):
        table += _layer(wanted, f"fpn.laterals.{level}", f"fpn_c{level + 2}p{level + 2}")
        table += _layer(wanted, f"fpn.outputs.{level}", f"fpn_p{level + 2}")
    for i in range(4):
        target, source = f"mask_head.convs.{i}", f"mrcnn_mask_conv{i + 1}"
        table += _layer_with_norm(wanted, target, source, f"mrcnn_mask_bn{i + 1}", wanted[f"{target}.kernel"], epsilon)

    bins, hidden = 7, wanted["box_head.second.kernel"][0]
    channels = wanted["box_head.first.kernel"][0] // bins**2
    h, w, i, o = wanted["mask_head.double.kernel"]
    return [
        *table,
        *_layer(wanted, "rpn.shared", "rpn_conv_shared"),
        *_layer(wanted, "rpn.objectness", "rpn_class_raw", _one_logit, times=2),
        *_layer(wanted, "rpn.deltas", "rpn_bbox_pred", _xyxy),
        *_layer_with_norm(
            wanted, "box_head.first", "mrcnn_class_conv1", "mrcnn_class_bn1", (bins, bins, channels, hidden), epsilon
        ),
        *_layer_with_norm(
            wanted, "box_head.second", "mrcnn_class_conv2", "mrcnn_class_bn2", (1, 1, hidden, hidden), epsilon
        ),
        *_layer(wanted, "box_head.classes", "mrcnn_class_logits"),
        *_layer(wanted, "box_head.deltas", "mrcnn_bbox_fc", _xyxy),
        Rule(
            {"mrcnn_mask_deconv/kernel": (h, w, o, i)},
            ("mask_head.double.kernel",),
            lambda kernel: (kernel.swapaxes(2, 3),),
        ),
        Rule({"mrcnn_mask_deconv/bias": (o,)}, ("mask_head.double.bias",), lambda bias: (bias,)),
        *_layer(wanted, "mask_head.masks", "mrcnn_mask"),
    ]
