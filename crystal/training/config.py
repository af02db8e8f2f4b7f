"""The settings of a training run: model, schedule, input; presets, and changes by dotted keys.

`--set rpn.proposals.nms_iou=0.6 --set batch_size=4` change one value each. An unknown key or a value of another type is
refused, so that a misspelt one is noticed, and so is a number out of range. A key that is not a field of `TrainConfig`
is looked for in the model's config; `phases.0.learning_rate` is that of the first phase.
"""

import ast
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from crystal.errors import MAX_SEED, CrystalError, require_range
from maskrcnn_jax.config import STRIDES, MaskRCNNConfig, converted
from maskrcnn_jax.training.state import Part


class ConfigError(CrystalError, ValueError):
    """A setting that does not exist, or a value that it cannot have."""


@dataclass(frozen=True)
class Phase:
    """A part of the schedule: what is trained, for how many steps, at which peak learning rate."""

    part: Part = "all"
    steps: int = 1000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require_range("steps of a phase", self.steps, 1)
        require_range("learning rate", self.learning_rate, 0, above=True)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run, as RUN/config.json holds them."""

    model: MaskRCNNConfig
    phases: tuple[Phase, ...] = (Phase(),)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    accumulate: int = 1  # steps (batches) whose gradients are averaged for one update
    ema_decay: float = 0.0  # of an average of the weights, which is validated and saved as the model; 0: none
    warmup: int = 100  # steps at the beginning of each phase
    decay: Literal["constant", "cosine"] = "constant"  # over each phase
    train_norms: bool = False  # the backbone's norms: frozen in Matterport's training, trained from random weights
    batch_size: int = 2
    slots: int = 0  # for the objects of a view; 0: as many as the data need (`following.py`)
    seed: int = 0
    augment: bool = True
    workers: int = 0  # processes that prepare batches; 0: threads of this process
    log_every: int = 10
    checkpoint_every: int = 500
    validate_every: int = 0  # 0: not during training
    validate_images: int = 20
    skips_allowed: int = 20  # steps in a row with NaN or infinite gradients that do not end the run

    def __post_init__(self) -> None:
        """Raises RangeError or ConfigError."""
        for name, limits in RANGES.items():
            value: Any = functools.reduce(getattr, name.split("."), self)
            for number in value if isinstance(value, tuple) else (value,):
                require_range(name.removeprefix("model."), number, **limits)
        size, anchors = self.model.image.size, self.model.anchors
        if not self.phases:
            raise ConfigError("phases: at least one is needed")
        shortest = min(phase.steps for phase in self.phases)
        if shortest < self.accumulate:
            raise ConfigError(
                f"accumulate {self.accumulate}: a phase has only {shortest} steps; choose at most {shortest}"
            )
        if any(side < 64 or side % 64 for side in size):
            raise ConfigError(f"image.size {size}: height and width must be multiples of 64, such as (256, 320)")
        zooms = self.model.image.zooms
        if zooms is not None and not 1 <= zooms[0] <= zooms[1]:
            raise ConfigError(f"image.zooms {zooms}: the least zoom, from 1 on, then the largest, such as (1, 2.5)")
        if anchors.strides != STRIDES:
            raise ConfigError(f"anchors.strides {anchors.strides}: must be {STRIDES}, those of P2 to P6")
        if len(anchors.sizes) != len(anchors.strides):
            raise ConfigError(f"anchors.sizes {anchors.sizes}: must be {len(anchors.strides)}, one a level")

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def with_steps(self, steps: int) -> "TrainConfig":
        """The same schedule stretched or shrunk to `steps`; every phase keeps its share.

        Raises ConfigError if `steps` is less than 1.
        """
        if steps < 1:
            raise ConfigError(f"--steps {steps}: at least one step is needed")
        ends = [round(sum(p.steps for p in self.phases[: i + 1]) / self.steps * steps) for i in range(len(self.phases))]
        lengths = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        phases = [dataclasses.replace(p, steps=n) for p, n in zip(self.phases, lengths, strict=True) if n]
        return dataclasses.replace(self, phases=tuple(phases))

    def with_learning_rate(self, rate: float) -> "TrainConfig":
        """The first phase at this peak rate, the others at the same ratio to it as before. Raises RangeError."""
        first = self.phases[0].learning_rate
        phases = [dataclasses.replace(p, learning_rate=rate * (p.learning_rate / first)) for p in self.phases]
        return dataclasses.replace(self, phases=tuple(phases))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Inverse of `to_dict`. Raises ConfigError if the values are not those of a `TrainConfig`."""
        try:
            values = dict(values)
            values["model"] = MaskRCNNConfig.from_dict(values["model"])
            values["phases"] = tuple(Phase(**phase) for phase in values["phases"])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not the config of a training run: {error}") from error

    @classmethod
    def tiny(cls) -> "TrainConfig":
        """Two million parameters, for two CPU cores. `crystal demo` trains it twice, from `--init shapes`."""
        return cls(
            model=MaskRCNNConfig.tiny(),
            phases=(Phase("all", 2150, 1.5e-3),),
            optimizer="adamw",
            weight_decay=1e-2,
            decay="cosine",
            train_norms=True,
            batch_size=8,
            checkpoint_every=100,
            validate_every=500,
        )

    @classmethod
    def small(cls) -> "TrainConfig":
        """Three million parameters and twice the pixels of `tiny`, on the same schedule."""
        return dataclasses.replace(cls.tiny(), model=MaskRCNNConfig.small())

    @classmethod
    def paper(cls) -> "TrainConfig":
        """Qin et al. 2021 on Matterport's schedule: heads, then C4 and up, then everything at a tenth of the rate.

        To be started from COCO weights: `crystal train --preset paper --init mask_rcnn_coco.h5 ...`. The paper does not
        give the number of steps; these are Matterport's shares of 160 epochs for a thousand images.
        """
        model = MaskRCNNConfig.paper()
        whole = dataclasses.replace(model.image, zooms=(1.0, 1.0))
        return cls(
            model=dataclasses.replace(model, image=whole),
            phases=(Phase("heads", 4000, 1e-3), Phase("stage4", 8000, 1e-3), Phase("all", 4000, 1e-4)),
            slots=100,
            validate_every=1000,
        )


# Of a TrainConfig; for each number of a tuple. The first are fields of its own, the others of the model's config.
RANGES: dict[str, dict[str, Any]] = {
    name: limits
    for names, limits in (
        ("batch_size accumulate log_every checkpoint_every validate_images skips_allowed", {"low": 1}),
        ("slots workers validate_every warmup weight_decay", {"low": 0}),
        ("clip_norm", {"low": 0, "above": True}),
        ("momentum ema_decay", {"low": 0, "high": 1}),
        ("seed", {"low": 0, "high": MAX_SEED}),
        ("model.image.std model.anchors.strides model.anchors.sizes model.anchors.ratios", {"low": 0, "above": True}),
        ("model.rpn.coding.weights model.roi.coding.weights", {"low": 0, "above": True}),
        ("model.rpn.targets.positive_iou model.rpn.targets.negative_iou", {"low": 0, "high": 1}),
        ("model.rpn.proposals.nms_iou", {"low": 0, "high": 1}),
        ("model.roi.targets.positive_iou model.roi.targets.truth_jitter", {"low": 0, "high": 1}),
        ("model.detection.score_threshold model.detection.nms_iou", {"low": 0, "high": 1}),
        ("model.rpn.targets.samples model.rpn.targets.max_positive", {"low": 1}),
        ("model.rpn.proposals.before_nms model.rpn.proposals.after_nms", {"low": 1}),
        ("model.roi.targets.samples model.roi.targets.max_positive model.roi.pooling.max_samples", {"low": 1}),
        ("model.roi.pooling.sampling_ratio model.roi.targets.truth_copies", {"low": 0}),
        ("model.roi.mask_head.layers", {"low": 0}),
        ("model.detection.max_detections model.detection.candidates", {"low": 1}),
        ("model.fpn_channels model.rpn.channels model.roi.box_head.size model.roi.box_head.hidden", {"low": 1}),
        ("model.roi.mask_head.size model.roi.mask_head.channels", {"low": 1}),
    )
    for name in names.split()
}
PRESETS = {"tiny": TrainConfig.tiny, "small": TrainConfig.small, "paper": TrainConfig.paper}


def override(config: TrainConfig, assignments: list[str]) -> TrainConfig:
    """The config with "key=value" assignments applied in order, e.g. "rpn.loss.box_weight=2"; "model." may be left out.

    Raises ConfigError for an unknown key or a value of another type, RangeError for a number out of range.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write key=value")
        path = key.strip().split(".")
        if path[0] not in {f.name for f in dataclasses.fields(config)}:
            path = ["model", *path]
        config = _replaced(config, path, text.strip(), key)
    return config


def _replaced(part: Any, path: list[str], text: str, key: str) -> Any:
    if isinstance(part, tuple) and any(map(dataclasses.is_dataclass, part)):
        if path[0] not in map(str, range(len(part))) or len(path) == 1:
            raise ConfigError(f"--set {key}: write the number of one of the {len(part)}, from 0 on, and its field")
        index = int(path[0])
        return (*part[:index], _replaced(part[index], path[1:], text, key), *part[index + 1 :])
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        raise ConfigError(f"--set {key}: there is nothing below {part!r}")
    names = [f.name for f in dataclasses.fields(part)]
    if path[0] not in names:
        raise ConfigError(f"--set {key}: there is no {path[0]!r} here; known: {', '.join(names)}")
    present = getattr(part, path[0])
    if len(path) > 1:
        return dataclasses.replace(part, **{path[0]: _replaced(present, path[1:], text, key)})
    if dataclasses.is_dataclass(present):
        below = ", ".join(f"{key}.{f.name}" for f in dataclasses.fields(present))
        raise ConfigError(f"--set {key}: it is a group of settings; set one of them: {below}")
    kind = get_type_hints(type(part))[path[0]]
    try:
        value = converted(_parsed(text), kind)
    except (TypeError, OverflowError) as error:
        like = f"one of {', '.join(map(str, get_args(kind)))}" if get_origin(kind) is Literal else f"like {present!r}"
        raise ConfigError(f"--set {key}={text}: the value must be {like}") from error
    return dataclasses.replace(part, **{path[0]: value})


def _parsed(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def differences(a: Any, b: Any, path: str) -> list[str]:
    """Dotted names below `path` at which two trees of dicts and plain values differ.

    >>> differences({"rpn": {"samples": 3, "score": "logit"}}, {"rpn": {"samples": 4, "score": "logit"}}, "model")
    ['model.rpn.samples']
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in {**a, **b} for d in differences(a.get(key), b.get(key), f"{path}.{key}")]
    return [] if a == b else [path]
