"""Weight files as Matterport, torchvision and Detectron2 write them, filled with numbers made from each array's name.

The numbers are those the peers were run with when `tests/goldens/*_network.npz` were recorded, so that a converted file
can be compared with what the peer itself computed. The layouts are written down here on their own, apart from the
converter's tables; no import of our package.
"""

import io
import pickle
import struct
import sys
import types
import zipfile
import zlib
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
WIDTHS = (64, 256, 512, 1024, 2048)
BASIC_WIDTHS = (64, 64, 128, 256, 512)
Layout = dict[str, tuple[int, ...]]


# -- what is in the files ----------------------------------------------------------------------------------------------


def matterport_layout() -> Layout:
    """The 690 arrays of the h5 of ResNet101, as layer/weight."""
    layout: Layout = {}

    def layer(name: str, *kernel: int, outputs: int | None = None) -> None:
        layout[f"{name}/kernel"] = kernel
        layout[f"{name}/bias"] = (outputs or kernel[-1],)

    def norm(name: str, channels: int) -> None:
        layout.update({f"{name}/{part}": (channels,) for part in ("gamma", "beta", "moving_mean", "moving_variance")})

    layer("conv1", 7, 7, 3, 64)
    norm("bn_conv1", 64)
    for stage, depth in enumerate(DEPTHS[101], 2):
        outputs, inner = WIDTHS[stage - 1], WIDTHS[stage - 1] // 4
        for block in range(depth):
            inputs = WIDTHS[stage - 2] if block == 0 else outputs
            name = f"{stage}{chr(ord('a') + block)}_branch"
            shapes = {"2a": (1, 1, inputs, inner), "2b": (3, 3, inner, inner), "2c": (1, 1, inner, outputs)}
            for branch, shape in (shapes | ({"1": (1, 1, inputs, outputs)} if block == 0 else {})).items():
                layer(f"res{name}{branch}", *shape)
                norm(f"bn{name}{branch}", shape[-1])
    for level in range(2, 6):
        layer(f"fpn_c{level}p{level}", 1, 1, WIDTHS[level - 1], 256)
        layer(f"fpn_p{level}", 3, 3, 256, 256)
    layer("rpn_conv_shared", 3, 3, 256, 512)
    layer("rpn_class_raw", 1, 1, 512, 6)
    layer("rpn_bbox_pred", 1, 1, 512, 12)
    layer("mrcnn_class_conv1", 7, 7, 256, 1024)
    layer("mrcnn_class_conv2", 1, 1, 1024, 1024)
    layer("mrcnn_class_logits", 1024, 81)
    layer("mrcnn_bbox_fc", 1024, 324)
    for i in (1, 2):
        norm(f"mrcnn_class_bn{i}", 1024)
    for i in range(1, 5):
        layer(f"mrcnn_mask_conv{i}", 3, 3, 256, 256)
        norm(f"mrcnn_mask_bn{i}", 256)
    layer("mrcnn_mask_deconv", 2, 2, 256, 256)
    layer("mrcnn_mask", 1, 1, 256, 81)
    return layout


def _widths(depth: int) -> tuple[int, ...]:
    return BASIC_WIDTHS if depth < 50 else WIDTHS


def _body(depth: int, names: dict[str, str]) -> Layout:
    """The ResNet of both PyTorch models; `names` are patterns of `{stage}` (0 to 3), `{block}` and `{i}` (1 to 3)."""
    layout: Layout = {}
    widths = _widths(depth)

    def conv(name: str, norm: str, *shape: int) -> None:
        layout[f"{name}.weight"] = shape
        layout.update({f"{norm}.{p}": shape[:1] for p in ("weight", "bias", "running_mean", "running_var")})

    conv(names["stem"], names["stem_norm"], 64, 3, 7, 7)
    for stage, blocks in enumerate(DEPTHS[depth]):
        outputs, inner = widths[stage + 1], widths[stage + 1] // 4
        for block in range(blocks):
            inputs = widths[stage] if block == 0 else outputs
            place = names["block"].format(stage=stage + int(names["first_stage"]), block=block)
            basic = ((outputs, inputs, 3, 3), (outputs, outputs, 3, 3))
            bottleneck = ((inner, inputs, 1, 1), (inner, inner, 3, 3), (outputs, inner, 1, 1))
            for i, shape in enumerate(basic if depth < 50 else bottleneck, 1):
                conv(f"{place}.conv{i}", f"{place}.{names['norm'].format(i=i)}", *shape)
            if block == 0 and (stage > 0 or inputs != outputs):
                conv(f"{place}.{names['shortcut']}", f"{place}.{names['shortcut_norm']}", outputs, inputs, 1, 1)
    return layout


def _layers(shapes: Layout) -> Layout:
    """Weight and bias of each; the transposed convolution's outputs come second, but are as many as its inputs."""
    return {k: v for name, s in shapes.items() for k, v in ((f"{name}.weight", s), (f"{name}.bias", (s[0],)))}


def torchvision_layout(depth: int, *, old: bool = False) -> Layout:
    """A state dict of torchvision; `old`: under the names of the file published in 2019."""
    block, conv = ("", "") if old else (".0", ".0.0")
    fpn = {f"inner_blocks.{i}{block}": (256, _widths(depth)[i + 1], 1, 1) for i in range(4)}
    fpn |= {f"layer_blocks.{i}{block}": (256, 256, 3, 3) for i in range(4)}
    heads = {f"mask_head.mask_fcn{i + 1}" if old else f"mask_head.{i}.0": (256, 256, 3, 3) for i in range(4)}
    heads |= {
        "box_head.fc6": (1024, 256 * 49),
        "box_head.fc7": (1024, 1024),
        "box_predictor.cls_score": (91, 1024),
        "box_predictor.bbox_pred": (4 * 91, 1024),
        "mask_predictor.conv5_mask": (256, 256, 2, 2),
        "mask_predictor.mask_fcn_logits": (91, 256, 1, 1),
    }
    rpn = {f"conv{conv}": (256, 256, 3, 3), "cls_logits": (3, 256, 1, 1), "bbox_pred": (12, 256, 1, 1)}
    names = {
        "stem": "backbone.body.conv1",
        "stem_norm": "backbone.body.bn1",
        "block": "backbone.body.layer{stage}.{block}",
        "first_stage": "1",
        "norm": "bn{i}",
        "shortcut": "downsample.0",
        "shortcut_norm": "downsample.1",
    }
    prefixed = {"backbone.fpn": fpn, "rpn.head": rpn, "roi_heads": heads}
    return _body(depth, names) | _layers({f"{p}.{n}": s for p, part in prefixed.items() for n, s in part.items()})


def detectron2_layout(depth: int = 101) -> Layout:
    """The "model" of mask_rcnn_R_101_FPN_3x."""
    fpn = {f"fpn_lateral{i + 2}": (256, WIDTHS[i + 1], 1, 1) for i in range(4)}
    fpn |= {f"fpn_output{i + 2}": (256, 256, 3, 3) for i in range(4)}
    heads = {f"mask_head.mask_fcn{i}": (256, 256, 3, 3) for i in range(1, 5)}
    heads |= {
        "box_head.fc1": (1024, 256 * 49),
        "box_head.fc2": (1024, 1024),
        "box_predictor.cls_score": (81, 1024),
        "box_predictor.bbox_pred": (4 * 80, 1024),
        "mask_head.deconv": (256, 256, 2, 2),
        "mask_head.predictor": (80, 256, 1, 1),
    }
    rpn = {"conv": (256, 256, 3, 3), "objectness_logits": (3, 256, 1, 1), "anchor_deltas": (12, 256, 1, 1)}
    names = {
        "stem": "backbone.bottom_up.stem.conv1",
        "stem_norm": "backbone.bottom_up.stem.conv1.norm",
        "block": "backbone.bottom_up.res{stage}.{block}",
        "first_stage": "2",
        "norm": "conv{i}.norm",
        "shortcut": "shortcut",
        "shortcut_norm": "shortcut.norm",
    }
    prefixed = {"backbone": fpn, "proposal_generator.rpn_head": rpn, "roi_heads": heads}
    return _body(depth, names) | _layers({f"{p}.{n}": s for p, part in prefixed.items() for n, s in part.items()})


# -- the numbers -------------------------------------------------------------------------------------------------------


def _stream(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)  # the same numbers in every NumPy


MATTERPORT_SCALES = {
    "conv1": 1 / 64,
    "fpn_p4": 1.5,
    "fpn_p5": 2.0,
    "rpn_class_raw": 0.2,
    "rpn_bbox_pred": 0.1,
    "mrcnn_class_logits": 0.5,
    "mrcnn_bbox_fc": 0.1,
    "mrcnn_mask": 0.3,
}


def matterport_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array called layer/weight."""
    layer, weight = name.split("/")
    numbers = _stream(name).standard_normal(shape)
    if weight == "kernel":
        inputs = shape[-1] if layer == "mrcnn_mask_deconv" else int(np.prod(shape[:-1]))
        if layer == "mrcnn_class_conv1":  # blind to the mean of a RoI, so that classes vary
            numbers = (numbers - numbers[::-1, ::-1]) * np.sqrt(0.5)
        gain = 1.0 if layer.startswith("fpn_") else 2.0
        numbers = numbers * np.sqrt(gain / inputs) * MATTERPORT_SCALES.get(layer, 1.0)
    elif weight == "gamma":
        numbers = (1.0 + 0.1 * numbers) * (0.3 if layer.endswith("branch2c") else 1.0)
    elif weight == "moving_variance":
        numbers = 1.0 + 0.2 * np.abs(numbers)
    else:
        numbers = 0.05 * numbers
        if layer == "mrcnn_class_logits":
            numbers[0] += 1.5  # some RoIs are background
    return numbers.astype(np.float32)


PYTORCH_GAINS = {  # by the beginning and the end of a name
    ("backbone.fpn.inner_blocks.", ".weight"): 0.35,
    ("backbone.fpn.layer_blocks.", ".weight"): 0.4,
    ("rpn.head.bbox_pred.", ".weight"): 0.15,
    ("roi_heads.box_predictor.cls_score.", ".weight"): 5.0,
    ("roi_heads.box_predictor.bbox_pred.", ".weight"): 1.5,
    ("roi_heads.mask_predictor.mask_fcn_logits.", ".weight"): 2.0,
    ("roi_heads.box_head.fc7.", ".weight"): 3.0,
    ("roi_heads.box_head.fc2.", ".weight"): 4.0,
    ("backbone.bottom_up.stem.conv1.weight", ""): 1 / 60,
    ("backbone.fpn_lateral", ".weight"): 0.35,
    ("backbone.fpn_output", ".weight"): 0.4,
    ("proposal_generator.rpn_head.anchor_deltas.", ".weight"): 0.15,
    ("roi_heads.mask_head.predictor.", ".weight"): 2.0,
}
PYTORCH_SHIFTS = {"fc6": -2.0, "fc7": -2.0, "fc1": -1.5, "fc2": -2.0}  # of the biases of the box head


def pytorch_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array of a state dict's entry."""
    numbers, part = _stream(name), name.rsplit(".", 1)[-1]
    if part == "running_var":
        array = numbers.uniform(0.8, 1.25, shape)
    elif part in ("running_mean", "bias"):
        shift = PYTORCH_SHIFTS.get(name.split(".")[-2], 0.0) if name.startswith("roi_heads.box_head.") else 0.0
        array = 0.05 * numbers.standard_normal(shape) + shift
    elif len(shape) == 1:
        array = numbers.uniform(0.8, 1.2, shape)
        if name.endswith((".bn3.weight", ".conv3.norm.weight")):
            array = 0.2 * array  # so that 33 blocks do not blow up
    else:
        fits = [g for (start, end), g in PYTORCH_GAINS.items() if name.startswith(start) and name.endswith(end)]
        gain = fits[0] if fits else 1.0
        array = numbers.standard_normal(shape) * (gain * np.sqrt(2.0 / float(np.prod(shape[1:]))))
    return array.astype(np.float32)


def make_image(height: int, width: int, seed: int) -> np.ndarray:
    """[h, w, 3] in [0, 1], RGB: waves, twelve rectangles and noise."""
    rng = np.random.RandomState(seed)
    y, x = np.arange(height, dtype=float)[:, None] / height, np.arange(width, dtype=float)[None] / width
    image = np.zeros((3, height, width))
    for channel in image:
        for _ in range(4):
            fx, fy = rng.uniform(0.5, 9.0, 2)
            phase, amplitude = rng.uniform(0, 6.28), rng.uniform(0.05, 0.15)
            channel += amplitude * np.sin(6.283185307179586 * (fx * x + fy * y) + phase)
    image += 0.5
    for _ in range(12):
        top, left = rng.randint(0, int(height * 0.8)), rng.randint(0, int(width * 0.8))
        h, w = rng.randint(8, max(9, int(height * 0.4))), rng.randint(8, max(9, int(width * 0.4)))
        part = image[:, top : top + h, left : left + w]
        part[:] = 0.35 * part + 0.65 * rng.uniform(0, 1, 3)[:, None, None]
    image += 0.03 * rng.standard_normal(image.shape)
    return np.clip(image, 0.0, 1.0).astype(np.float32).transpose(1, 2, 0)


def make_targets(height: int, width: int, count: int, classes: int, seed: int) -> tuple[np.ndarray, ...]:
    """`count` ellipses: boxes [n, 4], labels [n] in [1, classes), masks [n, h, w]."""
    rng = np.random.RandomState(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    boxes, labels, masks = [], [], []
    while len(boxes) < count:
        cy, cx = rng.uniform(0.15, 0.85) * height, rng.uniform(0.15, 0.85) * width
        ry, rx = rng.uniform(0.04, 0.25) * height, rng.uniform(0.04, 0.25) * width
        mask = ((rows + 0.5 - cy) / ry) ** 2 + ((columns + 0.5 - cx) / rx) ** 2 <= 1.0
        label = int(rng.randint(1, classes))
        if mask.sum() >= 20:
            y, x = np.where(mask)
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
            labels.append(label)
            masks.append(mask)
    return np.array(boxes, np.float32), np.array(labels), np.stack(masks).astype(np.uint8)


# -- the files ---------------------------------------------------------------------------------------------------------


def write_h5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As Keras' `save_weights` nests them: /layer/layer/weight:0, the RPN's three layers under rpn_model."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.2.4"
        groups: dict[str, list[str]] = {"input_image": []}  # a layer without weights is an empty group
        for name in arrays:
            layer = name.split("/")[0]
            groups.setdefault("rpn_model" if layer.startswith("rpn_") else layer, []).append(name)
        file.attrs["layer_names"] = [group.encode() for group in groups]
        for group, names in groups.items():
            place = file.create_group(group)
            place.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                place[f"{name}:0"] = arrays[name]


class _TorchPickler(pickle.Pickler):
    """Writes arrays as PyTorch writes tensors; the storages are gathered in `storages`."""

    def __init__(self, file: io.BytesIO, legacy: bool) -> None:
        super().__init__(file, protocol=2)
        self.legacy = legacy
        self.storages: list[np.ndarray] = []

    def persistent_id(self, thing: object) -> object:
        if not isinstance(thing, _Numbers):
            return None
        kind = sys.modules["torch"].LongStorage if thing.array.dtype == np.int64 else sys.modules["torch"].FloatStorage
        self.storages.append(thing.array)
        place = ("storage", kind, str(len(self.storages) - 1), "cpu", thing.array.size)
        return (*place, None) if self.legacy else place

    def reducer_override(self, thing: object) -> object:
        if not isinstance(thing, np.ndarray):
            return NotImplemented
        stride = tuple(s // thing.itemsize for s in np.zeros(thing.shape, thing.dtype).strides)
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (_Numbers(thing.ravel()), 0, thing.shape, stride, False, OrderedDict())


class _Numbers:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array


@contextmanager
def _names_of_torch():
    """Stand-ins under the names that PyTorch's pickles hold; only their names are ever written."""
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_zip(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As `torch.save` writes a state dict today."""
    program = io.BytesIO()
    with _names_of_torch():
        pickler = _TorchPickler(program, legacy=False)
        pickler.dump(OrderedDict(arrays))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("weights/data.pkl", program.getvalue())
        archive.writestr("weights/byteorder", "little")
        for key, numbers in enumerate(pickler.storages):
            archive.writestr(f"weights/data/{key}", numbers.tobytes())
        archive.writestr("weights/version", "3\n")


def write_legacy(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As `torch.save` wrote a state dict before version 1.6."""
    program = io.BytesIO()
    with _names_of_torch():
        pickler = _TorchPickler(program, legacy=True)
        pickler.dump(OrderedDict(arrays))
    with path.open("wb") as file:
        machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        for part in (0x1950A86A20F9469CFC6C, 1001, machine):
            pickle.dump(part, file, protocol=2)
        file.write(program.getvalue())
        pickle.dump([str(key) for key in range(len(pickler.storages))], file, protocol=2)
        for numbers in pickler.storages:
            file.write(struct.pack("<q", numbers.size) + numbers.tobytes())


def write_pickle(path: Path, arrays: dict[str, np.ndarray], protocol: int = 4) -> None:
    """As Detectron2's model zoo keeps weights."""
    path.write_bytes(pickle.dumps({"model": dict(arrays), "__author__": "tests"}, protocol=protocol))
