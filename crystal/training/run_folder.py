"""The folder of a training run.

RUN/config.json        all settings, command, versions, fingerprint of the data
RUN/metrics.jsonl      a line for each logged step: step, loss, loss_rpn_class, ..., learning_rate, grad_norm (`log.py`)
RUN/tensorboard/       the same for TensorBoard
RUN/checkpoints/<n>/   model, config, optimizer and input position after n steps (`checkpoints.py`)
RUN/best/              the best model by validation, itself a run folder with config.json and checkpoints/<n>
"""

import json
import sys
from pathlib import Path
from typing import Any

from crystal.errors import RunError
from crystal.files import write_atomically
from crystal.prediction.trained_model import read_json
from crystal.training.config import TrainConfig, differences
from crystal.training.machine import versions

MAY_CHANGE = ("workers", "log_every", "checkpoint_every")  # while a run goes on: no result depends on them


def claim(
    out: Path, config: TrainConfig, init: str | Path | None, data: dict[str, str] | None = None, *, resume: bool = False
) -> None:
    """Write RUN/config.json, or check that the one there has the same settings.

    A run without a checkpoint takes any settings, and any run those of `MAY_CHANGE`.

    Args:
        out: the run folder; it is made if it does not exist.
        config: all settings.
        init: the weights that the run starts from.
        data: fingerprints of the data by split; None: not compared.
        resume: refuse a folder without a run.

    Raises:
        RunError: the folder holds a run with other settings or cannot be made; with `resume`, also if it holds none.
    """
    if resume and not (out / "config.json").exists():
        raise RunError(f"{out} holds no run to go on with; leave out --resume to begin one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create {out}: {error.strerror}; choose another --out") from error
    described = {
        "train": json.loads(json.dumps(config.to_dict())),
        "init": None if init is None else str(init),
        "data": data or {},
        "command": " ".join(sys.argv),
        "versions": versions(),
    }
    path = out / "config.json"
    if not path.exists() or not any(p.name.isdigit() for p in (out / "checkpoints").glob("*")):
        write_atomically(path, json.dumps(described, indent=1))
        return
    present = _with_clahe_in_the_model(read_json(path))
    if isinstance(present.get("train"), dict):
        present["train"] |= {name: described["train"][name] for name in MAY_CHANGE}
    if not (present.get("data") and described["data"]):
        described["data"] = present.get("data")
    differing = [k for key in ("train", "init", "data") for k in differences(present.get(key), described[key], key)]
    if differing:
        raise RunError(
            f"{out} holds a run with other settings ({', '.join(differing[:6])}); choose another --out, or repeat the "
            "command that began it"
        )
    write_atomically(path, json.dumps(present, indent=1))


def _with_clahe_in_the_model(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run of version 0.1, which had CLAHE beside the model's config, as they are written today."""
    train = settings.get("train")
    if isinstance(train, dict) and "clahe" in train and isinstance(train.get("model"), dict):
        train["model"].setdefault("image", {})["clahe"] = train.pop("clahe")
    return settings
