"""The settings of a training run: model, schedule, input; presets, and changes by dotted keys.

`--set rpn.nms_iou=0.6 --set batch_size=4` change one value each. An unknown key or a value of another type is refused,
so that a misspelt one is noticed. A key that is not a field of `TrainConfig` is looked for in the model's config.
"""

import ast
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from crystal.errors import CrystalError
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.training.state import Part


class ConfigError(CrystalError, ValueError):
    """A setting that does not exist, or a value that it cannot have."""


@dataclass(frozen=True)
class Phase:
    """A part of the schedule: what is trained, for how many steps, at which peak learning rate."""

    part: Part = "all"
    steps: int = 1000
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run, as RUN/config.json holds them."""

    model: MaskRCNNConfig
    phases: tuple[Phase, ...] = (Phase(),)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    warmup: int = 100  # steps at the beginning of each phase
    decay: Literal["constant", "cosine"] = "constant"  # over each phase
    train_norms: bool = False  # the backbone's norms: frozen in Matterport's training, trained from random weights
    batch_size: int = 2
    slots: int = 100  # ground-truth slots an image
    seed: int = 0
    augment: bool = True
    workers: int = 0  # processes that prepare batches; 0: threads of this process
    log_every: int = 10
    checkpoint_every: int = 500
    validate_every: int = 0  # 0: not during training
    validate_images: int = 20
    skips_allowed: int = 20  # steps in a row with NaN or infinite gradients that do not end the run

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
        return dataclasses.replace(self, phases=tuple(phases), warmup=min(self.warmup, max(steps // 5, 1)))

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
            phases=(Phase("all", 500, 1.5e-3),),
            optimizer="adamw",
            weight_decay=1e-2,
            warmup=40,
            decay="cosine",
            train_norms=True,
            batch_size=8,
            slots=64,
            checkpoint_every=100,
            validate_every=250,
        )

    @classmethod
    def paper(cls) -> "TrainConfig":
        """Qin et al. 2021 on Matterport's schedule: heads, then C4 and up, then everything at a tenth of the rate.

        To be started from COCO weights: `crystal train --preset paper --init mask_rcnn_coco.h5 ...`. The paper does not
        give the number of steps; these are Matterport's shares of 160 epochs for a thousand images.
        """
        return cls(
            model=MaskRCNNConfig.paper(),
            phases=(Phase("heads", 4000, 1e-3), Phase("stage4", 8000, 1e-3), Phase("all", 4000, 1e-4)),
            validate_every=1000,
        )


PRESETS = {"tiny": TrainConfig.tiny, "paper": TrainConfig.paper}


def override(config: TrainConfig, assignments: list[str]) -> TrainConfig:
    """The config with "key=value" assignments applied in order, e.g. "rpn.nms_iou=0.6" or "model.rpn.nms_iou=0.6".

    Raises ConfigError for an unknown key, or a value of another type than the present one.
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
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        raise ConfigError(f"--set {key}: there is nothing below {part!r}")
    names = [f.name for f in dataclasses.fields(part)]
    if path[0] not in names:
        raise ConfigError(f"--set {key}: there is no {path[0]!r} here; known: {', '.join(names)}")
    present = getattr(part, path[0])
    value = _replaced(present, path[1:], text, key) if len(path) > 1 else _parsed(text, present, key)
    kind = get_type_hints(type(part))[path[0]]
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ConfigError(f"--set {key}={text}: it is one of {', '.join(map(str, get_args(kind)))}")
    return dataclasses.replace(part, **{path[0]: value})


def _parsed(text: str, present: Any, key: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(present, float) and type(value) is int:
        value = float(value)
    if dataclasses.is_dataclass(present) or (present is not None and type(value) is not type(present)):
        raise ConfigError(f"--set {key}={text}: the value must be of the type of {present!r}, {type(present).__name__}")
    return value


def differences(a: Any, b: Any, path: str) -> list[str]:
    """Dotted names below `path` at which two trees of dicts and plain values differ.

    >>> differences({"roi": {"samples": 3, "reduce": "max"}}, {"roi": {"samples": 4, "reduce": "max"}}, "model")
    ['model.roi.samples']
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in {**a, **b} for d in differences(a.get(key), b.get(key), f"{path}.{key}")]
    return [] if a == b else [path]
