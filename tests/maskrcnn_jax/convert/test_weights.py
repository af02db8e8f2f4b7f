"""A weight file in, a model out; or one sentence that says what is wrong, and nothing written."""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from flax import nnx

from maskrcnn_jax import checkpoint, convert
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.convert.__main__ import main
from maskrcnn_jax.convert.table import ConversionError
from maskrcnn_jax.convert.weights import open_source
from tests.weight_files import (
    detectron2_layout,
    matterport_layout,
    torchvision_layout,
    write_h5,
    write_legacy,
    write_pickle,
    write_zip,
)


def ones(layout, change=lambda layout: None):
    """Arrays of a layout, all of one number, after a change of the layout's shapes."""
    layout = dict(layout)
    change(layout)
    return {name: np.full(shape, 0.5, np.float32) for name, shape in layout.items()}


def write_hollow_h5(path, layout):
    """The layout with its numbers left to HDF5's fill value: a small file of the true shapes."""
    with h5py.File(path, "w") as file:
        for name, shape in layout.items():
            file.create_dataset(f"{name.split('/')[0]}/{name}:0", shape, "f4", fillvalue=0.5)


def test_told_apart_by_content(tmp_path):
    """Under names that say nothing or lie."""
    write_hollow_h5(tmp_path / "a.pkl", matterport_layout())
    write_zip(tmp_path / "b.h5", ones(torchvision_layout(50)))
    write_legacy(tmp_path / "c", ones(torchvision_layout(50, old=True)))
    write_pickle(tmp_path / "d.pth", ones(detectron2_layout(50)))
    write_zip(tmp_path / "e.pth", ones(detectron2_layout(50)))
    found = {path.name: convert.load_config(path) for path in sorted(tmp_path.iterdir())}
    detectron2 = MaskRCNNConfig.detectron2_coco()
    assert found["a.pkl"] == MaskRCNNConfig.matterport_coco()
    assert found["b.h5"] == found["c"] == MaskRCNNConfig.torchvision_coco(50)
    assert found["d.pth"] == found["e.pth"]
    assert found["d.pth"].classes == detectron2.classes
    assert found["d.pth"].backbone.depths == (3, 4, 6, 3)


def test_a_layer_missing_one_too_many_and_one_of_another_shape(tmp_path):
    def change(layout):
        del layout["mrcnn_mask/bias"]
        layout["mrcnn_extra/kernel"] = (3, 3)
        layout["mrcnn_class_logits/bias"] = (91,)

    layout = matterport_layout()
    change(layout)
    write_hollow_h5(tmp_path / "w.h5", layout)
    with pytest.raises(ConversionError) as raised:
        convert.load(tmp_path / "w.h5")
    assert str(raised.value).split("\n  ") == [
        f"{tmp_path / 'w.h5'}: 3 errors:",
        "missing: mrcnn_mask/bias (81,)",
        "shape of mrcnn_class_logits/bias: (91,) in the file, (81,) expected",
        "unknown: mrcnn_extra/kernel (3, 3)",
    ]


def test_an_array_that_would_fill_the_memory_is_not_read(tmp_path):
    """A claim of a million gigabytes costs nothing in HDF5."""
    layout = matterport_layout() | {"mrcnn_mask/kernel": (1_000_000, 1_000_000, 256)}
    write_hollow_h5(tmp_path / "w.h5", layout)
    with pytest.raises(ConversionError, match=r"shape of mrcnn_mask/kernel: \(1000000, 1000000, 256\) in the file"):
        convert.load(tmp_path / "w.h5")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A ResNet50 of torchvision as a file; numbers so small that features stay finite."""
    path = tmp_path_factory.mktemp("published") / "weights.pth"
    write_zip(path, {name: array / 100 for name, array in ones(torchvision_layout(50)).items()})
    return path


def test_not_a_number(tmp_path):
    arrays = ones(torchvision_layout(50))
    arrays["rpn.head.bbox_pred.bias"][3] = np.nan
    arrays["roi_heads.box_head.fc7.weight"][0, 0] = np.inf
    write_zip(tmp_path / "w.pth", arrays)
    with pytest.raises(ConversionError, match=r"(?s)2 errors.*bbox_pred\.bias has NaN.*fc7\.weight has NaN"):
        convert.load(tmp_path / "w.pth")


def test_cut_short(tmp_path, published):
    whole = published.read_bytes()
    write_hollow_h5(tmp_path / "whole.h5", matterport_layout())
    h5 = (tmp_path / "whole.h5").read_bytes()
    write_pickle(tmp_path / "whole.pkl", {"backbone.bottom_up.x": np.zeros(1000, np.float32)})
    pkl = (tmp_path / "whole.pkl").read_bytes()
    for content in (whole[: len(whole) // 2], h5[: len(h5) // 2], h5[:600], pkl[:700], whole[:10], b""):
        (tmp_path / "w").write_bytes(content)
        with pytest.raises(ConversionError, match=rf"^{tmp_path / 'w'}: "):
            convert.load(tmp_path / "w")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "neither HDF5 nor a PyTorch archive nor a pickle"),
        (pickle.dumps({"model": {"fc.weight": np.ones((10, 5), np.float32)}}), "arrays .* are of another model"),
        (pickle.dumps([1, 2]), "no dictionary of arrays"),
    ],
)
def test_other_files(tmp_path, content, message):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        convert.load(tmp_path / "w")
    with pytest.raises(ConversionError, match="no such file"):
        convert.load(tmp_path / "elsewhere")


def test_files_of_a_training_are_unwrapped(tmp_path, capsys):
    """Lightning, DataParallel and torch.compile put names before all others; the numbers are the same."""
    arrays = ones(torchvision_layout(50))
    files = {
        "module.": {"epoch": 3, "model_state_dict": {f"module.{name}": a for name, a in arrays.items()}, "loss": 0.5},
        "model.": {"state_dict": {f"model.{name}": a for name, a in arrays.items()}, "global_step": 7},
        "_orig_mod.module.": {"model": {f"_orig_mod.module.{name}": a for name, a in arrays.items()}},
    }
    for prefix, content in files.items():
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol=4))
        with open_source(tmp_path / "w.pkl") as source:
            assert (source.prefix, set(source.entries)) == (prefix, set(arrays))
    assert main([str(tmp_path / "w.pkl"), str(tmp_path / "out")]) == 0
    assert "'_orig_mod.module.' removed from all names" in capsys.readouterr().out
    looped: dict = {}
    looped["model"] = looped
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(looped, protocol=4))
    with pytest.raises(ConversionError, match="not a dictionary of arrays"):
        convert.load_config(tmp_path / "w.pkl")


def write_of(path, source, classes):
    """The layout of a source with another number of classes, background included."""
    if source == "matterport":
        layout = matterport_layout()
        own = {"mrcnn_class_logits": classes, "mrcnn_bbox_fc": 4 * classes, "mrcnn_mask": classes}
        layout = {n: (*s[:-1], own[n.split("/")[0]]) if n.split("/")[0] in own else s for n, s in layout.items()}
        write_hollow_h5(path, layout)
        return
    layout = torchvision_layout(50) if source == "torchvision" else detectron2_layout(50)
    others = classes if source == "torchvision" else classes - 1
    own = {"cls_score": classes, "bbox_pred": 4 * others, "mask_fcn_logits": others, "predictor": others}

    def size(name, shape):
        part = name.split(".")[-2]
        return (own[part], *shape[1:]) if name.startswith("roi_heads.") and part in own else shape

    write_pickle(path, ones({name: size(name, shape) for name, shape in layout.items()}))


@pytest.mark.parametrize("source", ["matterport", "torchvision", "detectron2"])
def test_other_numbers_of_classes(tmp_path, source):
    write_of(tmp_path / "w", source, 3)
    model = convert.load(tmp_path / "w")
    assert model.config.classes == ((0, "background"), (1, "class 1"), (2, "class 2"))
    assert model.box_head.classes.kernel.shape[-1] == 3


@pytest.mark.parametrize("rows", [0, 1, 10**12])
def test_numbers_of_classes_that_make_no_sense(tmp_path, rows):
    layout = matterport_layout()
    layout["mrcnn_class_logits/kernel"] = (1024, rows)
    write_hollow_h5(tmp_path / "w", layout)
    with pytest.raises(ConversionError, match="shape of mrcnn_class_logits/kernel"):
        convert.load(tmp_path / "w")


def test_models_that_are_not_supported_are_named(tmp_path):
    layout = torchvision_layout(50) | {
        "rpn.head.conv.1.0.weight": (2, 2, 3, 3),
        "roi_heads.box_head.0.0.weight": (2, 2, 3, 3),
        "backbone.fpn.inner_blocks.0.1.weight": (2,),
    }
    write_zip(tmp_path / "v2.pth", ones(layout))
    with h5py.File(tmp_path / "keras3.weights.h5", "w") as file:
        for layer in ("conv2d", "conv2d_1"):
            file[f"layers/{layer}/vars/0"] = np.zeros((3, 3), np.float32)
    with zipfile.ZipFile(tmp_path / "keras3.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    (tmp_path / "whole.pth").write_bytes(pickle.dumps({"model": pathlib.PurePosixPath("x")}, protocol=4))
    for name, named in {
        "v2.pth": "maskrcnn_resnet50_fpn_v2.*not supported; take maskrcnn_resnet50_fpn",
        "keras3.weights.h5": "written by Keras 3",
        "keras3.keras": "a model of Keras 3",
        "whole.pth": "save the model's state_dict alone",
    }.items():
        with pytest.raises(ConversionError, match=named) as raised:
            convert.load_config(tmp_path / name)
        assert "damaged" not in str(raised.value)


def test_an_epsilon_that_makes_no_sense(published):
    with pytest.raises(ConversionError, match=r"epsilon -1\.0 is not in"):
        convert.load(published, norm_epsilon=-1.0)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_checkpoint_with_its_origin(tmp_path, published, capsys):
    destination = tmp_path / "weights" / "coco"
    assert main([str(published), str(destination), "--norm-epsilon", "0.001"]) == 0
    said = capsys.readouterr().out
    assert "torchvision Mask R-CNN, ResNet50-FPN, 91 classes with background" in said
    assert "norm epsilon 0.001" in said
    origin = json.loads((destination / "origin" / "metadata").read_text())
    assert origin["norm_epsilon"] == 0.001
    assert origin["source"] == "torchvision Mask R-CNN"
    assert len(origin["sha256"]) == 64
    saved, direct = checkpoint.load(destination), convert.load(published, norm_epsilon=0.001)
    assert saved.config == direct.config == MaskRCNNConfig.torchvision_coco(50)
    for ours, theirs in zip(*(checkpoint.named_parameters(m).values() for m in (saved, direct)), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    assert main([str(published), str(destination)]) == 1  # nothing is overwritten
    assert "exists already" in capsys.readouterr().err


def test_a_golden_gates_the_saving(tmp_path, published, capsys):
    """One that the model does not meet, one with nothing in it, and one that it meets."""
    image = np.full((64, 64, 3), 90, np.uint8)
    for name, arrays in {
        "other": {"p5": np.full(4, 1e9), "p5.index": np.arange(4)},
        "empty": {},
    }.items():
        np.savez(tmp_path / f"{name}.npz", image=image, **arrays)
        arguments = [str(published), str(tmp_path / "out"), "--verify", str(tmp_path / f"{name}.npz")]
        assert main(arguments) == 1
        printed = capsys.readouterr()
        assert "nothing was written" in printed.err
        assert not (tmp_path / "out").exists()
    assert main([str(published), str(tmp_path / "out"), "--verify", str(tmp_path / "none.npz")]) == 1
    assert "not a golden" in capsys.readouterr().err

    model = convert.load(published)
    p5 = np.asarray(nnx.jit(lambda m, i: m.features(i)[1].p5)(model, image[None]))[0].ravel()
    np.savez(tmp_path / "met.npz", image=image, **{"p5": p5, "p5.index": np.arange(p5.size)})
    assert main([str(published), str(tmp_path / "out"), "--verify", str(tmp_path / "met.npz")]) == 0
    assert "ok   p5" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "origin" / "metadata").read_text())["verified"] == "met.npz"


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_file_runs_nothing_and_writes_nothing(tmp_path, capsys):
    victim = tmp_path / "victim"
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"backbone.bottom_up.x": Malicious(f"touch {victim}")}}))
    assert main([str(tmp_path / "w.pkl"), str(tmp_path / "out")]) == 1
    assert f"asks for {os.system.__module__}.system, which weights do not need" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.pkl"]


LIMITS = """
import sys
from maskrcnn_jax.convert.__main__ import main
code = main(sys.argv[1:])
# Not getrusage: its maximum counts the process that this one was forked from.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 2**20)
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read as Linux gives it")
def test_the_whole_h5_in_under_two_gigabytes(tmp_path):
    """245 MiB of Matterport's, in a process of its own, which takes the memory of JAX and Orbax as well."""
    write_h5(tmp_path / "w.h5", ones(matterport_layout()))
    assert (tmp_path / "w.h5").stat().st_size > 245 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", LIMITS, str(tmp_path / "w.h5"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    assert float(done.stdout.split()[-1]) < 2
