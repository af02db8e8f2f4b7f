"""`crystal train --init WEIGHTS --preset paper`, through its stages: what is frozen stays as it was, to the bit."""

import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from crystal import cli
from crystal.training import config
from crystal.weights.pretrain import write_scenes
from maskrcnn_jax import checkpoint
from tests.small import SMALL, small_model
from tests.small_run import CONFIG

THREE = ((0, "background"), (1, "crystal"), (2, "drop"))
CLASS_OUTPUTS = ("box_head.classes", "box_head.deltas", "mask_head.masks")


def in_part(name, part):
    """Whether a stage trains a parameter, written out: Matterport's heads, then C4 and up, without norms."""
    if not name.startswith("backbone."):
        return True
    early = name.startswith(("backbone.stem", "backbone.stages.0.", "backbone.stages.1."))
    return part == "stage4" and not early and "norm" not in name


def parameters(folder):
    return {name: np.asarray(p) for name, p in checkpoint.named_parameters(checkpoint.load(folder)).items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(initial parameters, run folder) of two steps of heads and two of stage4, a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("transfer")
    write_scenes(folder / "data", 4, seed=1)
    checkpoint.save(small_model(7, dataclasses.replace(SMALL, classes=THREE)), folder / "weights")
    preset = dataclasses.replace(CONFIG, phases=tuple(dataclasses.replace(phase, steps=2) for phase in CONFIG.phases))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.PRESETS, "paper", lambda: preset)
        words = "crystal train --preset paper --steps 4 --checkpoint-every 2 --seed 3"
        places = ["--data", folder / "data", "--init", folder / "weights", "--out", folder / "run"]
        patch.setattr(sys, "argv", [*words.split(), *map(str, places)])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    shutil.rmtree(folder / "data")
    return parameters(folder / "weights"), folder / "run"


def test_each_stage_trains_its_part_and_leaves_the_rest_bit_identical(run):
    initial, folder = run
    heads, stage4 = (parameters(folder / "checkpoints" / step) for step in ("2", "4"))
    assert set(heads) == set(stage4) == set(initial)
    kept = [name for name in initial if not name.startswith(CLASS_OUTPUTS)]
    for before, after, part in ((initial, heads, "heads"), (heads, stage4, "stage4")):
        changed = {name for name in kept if not np.array_equal(before[name], after[name])}
        assert changed <= {name for name in kept if in_part(name, part)}
        for whole in (
            "fpn.",
            "rpn.",
            "box_head.",
            "mask_head.",
            *(("backbone.stages.2.", "backbone.stages.3.") * (part != "heads")),
        ):
            assert any(name.startswith(whole) for name in changed), f"nothing of {whole} was trained in {part}"
    norms = [name for name in kept if "norm" in name]
    assert len(norms) > 10
    assert all(np.array_equal(initial[name], stage4[name]) for name in norms)


def test_the_frozen_have_no_optimizer_state(run):
    _, folder = run
    for step, part in (("2", "heads"), ("4", "stage4")):
        whole = parameters(folder / "checkpoints" / step)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            args = ocp.args.Composite(optimizer=ocp.args.StandardRestore())
            saved = reader.restore((folder / "checkpoints" / step).absolute(), args=args)["optimizer"]
        momentum = sum(leaf.size for leaf in jax.tree.leaves(saved) if getattr(leaf, "ndim", 0))
        assert momentum == sum(p.size for name, p in whole.items() if in_part(name, part))


def test_the_classes_are_the_datasets(run):
    initial, folder = run
    model = checkpoint.load(folder)
    assert model.config.classes == ((0, "background"), (1, "shape"))
    assert model.box_head.classes.kernel.shape[-1] == 2
    assert initial["box_head.classes.kernel"].shape[-1] == 3
    assert json.loads((folder / "config.json").read_text())["train"]["train_norms"] is False
