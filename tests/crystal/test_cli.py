"""The command line as a user meets it: one sentence and an exit code for everything that can be foreseen."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from crystal import cli
from crystal.files import folder_written_whole
from maskrcnn_jax import checkpoint
from tests.labelme_files import shape, write
from tests.small import small_model


def crystal(monkeypatch, capsys, *arguments):
    """(exit code, output, errors) of one command."""
    monkeypatch.setattr(sys, "argv", ["crystal", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small"
    checkpoint.save(small_model(), path)
    return path


@pytest.fixture(scope="module")
def drops(tmp_path_factory):
    from crystal.drops.dataset import render_dataset

    out = tmp_path_factory.mktemp("drops") / "data"
    render_dataset(out, train=1, val=2, scenes="simple", height=160, width=200, workers=1)
    return out


def test_module_and_help_work_without_jax():
    code = (
        "import sys, crystal.cli; sys.argv = ['crystal', '--help']\ntry: crystal.cli.main()\nexcept SystemExit: pass\n"
    )
    code += "assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_without_the_extra_one_sentence_says_what_to_install():
    code = "import sys; sys.modules['tyro'] = None; from crystal.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == 'error: tyro is not installed: pip install "maskrcnn-jax[crystal]"\n'


def test_a_missing_system_library_ends_in_its_remedy():
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    message = cli.explanation(error)
    assert message == f"{error}: install the system libraries OpenCV needs: apt-get install libgl1 libglib2.0-0"


def test_a_device_that_is_not_there_and_too_little_memory_are_no_damage(weights, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    words = ["predict", "--weights", weights, "--images", tmp_path / "a.png", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "crystal", *map(str, words)],
        env={**os.environ, "JAX_PLATFORMS": "rocm"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: JAX finds no device for JAX_PLATFORMS=rocm: set JAX_PLATFORMS=cpu, or ")
    assert str(cli.explanation(MemoryError())).startswith("out of memory")


def test_drawing_drops_needs_no_jax(tmp_path):
    code = (
        "import sys; sys.argv = ['crystal', *sys.argv[1:]]\nfrom crystal import cli\ntry: cli.main()\n"
        "except SystemExit as end: assert end.code == 0\nassert 'jax' not in sys.modules"
    )
    words = ["render", "--out", tmp_path / "data", "--train", "1", "--val", "1"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "train.json").exists()


def test_evaluate_prints_and_writes_the_numbers(monkeypatch, capsys, weights, drops, tmp_path):
    out = tmp_path / "numbers.json"
    code, output, _ = crystal(monkeypatch, capsys, "evaluate", "--weights", weights, "--data", drops, "--out", out)
    assert code == 0
    assert "map_050_10" in output
    numbers = json.loads(out.read_text())
    assert {"map_065_100", "coco_segm_ap", "coco_segm_ap50", "coco_bbox_ap", "precision", "recall"} <= set(numbers)
    assert 0 <= numbers["recall"] <= 1


def test_predict_does_the_good_files_lists_the_bad_and_fails(monkeypatch, capsys, weights, tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), np.full((40, 50), 128, np.uint8))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 not much of a picture")
    code, output, _ = crystal(
        monkeypatch, capsys, "predict", "--weights", weights, "--images", tmp_path, "--out", tmp_path / "out"
    )
    assert code == 1
    assert "bad.jpg" in output
    images = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["good.png"]


def test_convert_does_the_good_files_lists_the_bad_and_fails(monkeypatch, capsys, tmp_path):
    write(tmp_path / "in", "97wo_01A_1", [shape("xtal"), shape("ice")])
    write(tmp_path / "in", "97wo_01A_2", [shape("xtal-1"), shape("xtal-1", group_id=4)], seed=1)
    (tmp_path / "in" / "bad.json").write_text("{")
    arguments = ["--out", tmp_path / "out", "--labels", "xtal=crystal", "--labels", "ice=", "--workers", "1"]
    code, output, errors = crystal(monkeypatch, capsys, "convert", tmp_path / "in", *arguments)
    assert (code, errors) == (1, "")
    assert "bad.json" in output.replace("\n", "")
    assert "3 instances of crystal" in output
    sizes = [len(json.loads((tmp_path / "out" / f"{s}.json").read_text())["images"]) for s in ("train", "val")]
    assert sorted(sizes) == [0, 2]  # one drop is not parted
    code, _, errors = crystal(monkeypatch, capsys, "convert", tmp_path / "in", *arguments)
    assert code == 1
    assert errors.endswith("already exists and is not empty; name another folder or remove this one\n")


def coco(images=(), annotations=()):
    return json.dumps(
        {"images": list(images), "annotations": list(annotations), "categories": [{"id": 1, "name": "crystal"}]}
    )


MISSING = coco([{"id": 1, "file_name": "gone.jpg", "height": 10, "width": 10}])


@pytest.mark.parametrize(
    ("command", "files", "output"),
    [
        ("train --data {t}/none --out {t}/run", {}, "none"),
        ("train --data {t}/data --out {t}/run", {"data/train.json": "{ not json"}, "train.json"),
        ("train --data {t}/data --out {t}/run", {"data/train.json": MISSING}, "gone.jpg"),
        ("train --data {t}/data --out {t}/run", {"data/train.json": coco()}, "train.json"),
        ("predict --weights {t}/none --images {t} --out {t}/out", {}, "none"),
        ("predict --weights {w} --images {t}/empty --out {t}/out", {"empty/notes.txt": ""}, "empty"),
        ("evaluate --weights {w} --data {t}/none", {}, "none"),
        ("render --out {t}/full --train 1 --val 1", {"full/something.txt": ""}, "full"),
        ("convert {t}/none --out {t}/out", {}, "none"),
        ("convert {t}/empty --out {t}/out", {"empty/notes.txt": ""}, "no LabelMe file"),
        ("convert {t}/in --out {t}/full", {"in/a.json": "{", "full/something.txt": ""}, "full"),
        ("convert {t}/in --out {t}/out --labels ice", {"in/a.json": "{"}, "--labels ice"),
        ("convert {t}/in --out {t}/out --group (", {"in/a.json": "{"}, "--group ("),
    ],
)
def test_bad_input_ends_in_one_sentence(monkeypatch, capsys, weights, tmp_path, command, files, output):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    arguments = [part.format(t=tmp_path, w=weights) for part in command.split()]
    code, _, errors = crystal(monkeypatch, capsys, *arguments)
    assert code == 1
    message = [line for line in errors.splitlines() if line.strip()]
    assert len(message) == 1, errors
    assert message[0].startswith("error: ")
    assert output in message[0]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


OUTSIDE = {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [[90, 90, 99, 90, 99, 99]]}
STRAY = {"id": 8, "image_id": 99, "category_id": 1, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9]]}


@pytest.mark.parametrize("annotation", [OUTSIDE, STRAY])
def test_an_annotation_of_no_use_is_left_out_and_reported(monkeypatch, capsys, weights, tmp_path, annotation):
    (tmp_path / "val" / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "val" / "images" / "drop.png"), np.full((40, 40), 128, np.uint8))
    good = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [5, 5, 10, 10]}
    good["segmentation"] = [[5, 5, 15, 5, 15, 15, 5, 15]]
    bad = {"area": 1, **annotation}
    image = {"id": 1, "file_name": "drop.png", "height": 40, "width": 40}
    (tmp_path / "val.json").write_text(coco([image], [good, bad]))
    out = tmp_path / "numbers.json"
    code, output, errors = crystal(
        monkeypatch, capsys, "evaluate", "--weights", weights, "--data", tmp_path, "--out", out
    )
    assert (code, errors) == (0, "")
    assert out.exists()  # the rest was done
    warning = next(line for line in output.splitlines() if line.startswith("warning: "))
    assert "correct or remove" in warning
    assert f"annotation {annotation['id']}: " in warning


@pytest.mark.parametrize(
    "words",
    [
        "train --data D --out OUT --seed -1",
        "train --data D --out OUT --seed 99999999999999999999",
        "train --data D --out OUT --steps 0",
        "train --data D --out OUT --checkpoint-every 0",
        "train --data D --out OUT --learning-rate 0",
        "train --data D --out OUT --learning-rate nan",
        "table1 --data D --out OUT --at-once 0",
        "table1 --data D --out OUT --seeds 0",
        "table1 --data D --out OUT --steps -3",
        "evaluate --weights W --data D --seed -1",
        "predict --weights W --images a.png --out OUT --score 7",
        "predict --weights W --images a.png --out OUT --score nan",
        "render --out OUT --train -1 --val 1",
        "render --out OUT --train 1 --val 1 --light 2",
        "convert D --out OUT --val 1.5",
        "convert D --out OUT --test -0.5",
        "convert D --out OUT --workers 0",
        "check D --rows -1",
        "demo --out OUT --steps 0",
        "demo --out OUT --val 0",
    ],
)
def test_numbers_out_of_range_are_refused_with_the_range(monkeypatch, capsys, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    code, output, errors = crystal(monkeypatch, capsys, *words.split())
    assert code == 2
    assert "must be" in output + errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["batch_size=0", "log_every=0", "clip_norm=0", "image.size=[250,300]"])
def test_settings_out_of_range_claim_no_folder(monkeypatch, capsys, drops, tmp_path, setting):
    code, _, errors = crystal(
        monkeypatch, capsys, "train", "--data", drops, "--out", tmp_path / "run", "--set", setting
    )
    assert code == 1
    assert "must be" in errors
    assert not (tmp_path / "run").exists()


def test_a_path_may_begin_at_home_wherever_it_stands_in_a_word(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in", "a", [shape()])
    code = crystal(monkeypatch, capsys, "convert", "~/in", "--out=~/out", "--val", 0)[0]
    assert (code, (tmp_path / "out" / "train.json").exists(), (tmp_path / "~").exists()) == (0, True, False)
    crystal(monkeypatch, capsys, "check", "~/out", "--out=~/page.html")
    assert (tmp_path / "page.html").exists()
    options = cli.with_home(cli.Train(data=cli.Path("~/d"), out=cli.Path("a~/b"), init="~/w.h5", set=("~/x=1",)))
    assert (options.data, options.out) == (tmp_path / "d", cli.Path("a~/b"))
    assert (options.init, options.set) == (str(tmp_path / "w.h5"), ("~/x=1",))
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert "there is no home folder that ~ could stand for" in crystal(monkeypatch, capsys, "check", "~/out")[2]


NAMES = ["plate[a1]", "x[/b].png", "[red]drop", "晶体 ü", "tab\tnew\nline", os.fsdecode(b"latin-\xe4")]


def test_no_name_ends_a_command_whatever_the_console_can_show(tmp_path):
    """Brackets, letters of any script, control characters and bytes that are no UTF-8, in files and in classes."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "in" / name
        written = write(path.parent, path.name, [shape(name), shape()], seed=number)
        written.with_name(f"{path.name} bad.json").write_text("{")
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}

    def command(*arguments):
        words = [sys.executable, "-m", "crystal", *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, env=environment, cwd=cli.Path(cli.__file__).parent.parent)
        assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")[-2000:]
        return done.returncode, done.stdout.decode("cp1252")

    code, out = command("convert", tmp_path / "in", "--out", tmp_path / "set", "--val", 0.4, "--workers", 1)
    assert code == 1  # for the bad ones, all of which are named
    said = "".join(out.split())
    assert all(name in said for name in ("plate[a1]bad.json", "x[/b].pngbad.json", "[red]dropbad.json"))
    assert f"left out ({len(NAMES)})" in out
    code, out = command("check", tmp_path / "set", "--out", tmp_path / "x[/b].html")
    assert "x[/b].html" in out
    assert code == 0
    documents = [json.loads((tmp_path / "set" / f"{split}.json").read_text()) for split in ("train", "val")]
    assert sum(len(document["images"]) for document in documents) == len(NAMES)


def test_a_full_disk_names_the_file(monkeypatch, capsys, tmp_path):
    from crystal.drops import dataset

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device", str(tmp_path / "drops" / "drop.jpg"))

    monkeypatch.setattr(dataset, "render_dataset", full)
    code, _, errors = crystal(monkeypatch, capsys, "render", "--out", tmp_path / "drops", "--train", 1, "--val", 1)
    assert code == 1
    assert "drop.jpg: No space left on device; make room" in errors


def test_an_interrupt_leaves_no_stack_trace(monkeypatch, capsys, tmp_path):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "demo", interrupted)
    code, _, errors = crystal(monkeypatch, capsys, "demo", "--out", tmp_path / "demo")
    assert code == 130
    assert "Traceback" not in errors


def test_termination_is_an_interrupt_so_that_nothing_half_written_stays(monkeypatch, capsys, tmp_path):
    def terminated(options):
        with folder_written_whole(tmp_path / "out") as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "demo", terminated)
    code, _, errors = crystal(monkeypatch, capsys, "demo", "--out", tmp_path / "demo")
    assert (code, list(tmp_path.iterdir())) == (143, [])
    assert "Traceback" not in errors
    assert signal.getsignal(signal.SIGTERM) is before
