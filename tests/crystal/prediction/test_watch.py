"""Pictures that come one by one: each predicted once, half-written ones waited for, and a stop loses nothing."""

import csv
import json
import os
import signal

import cv2
import numpy as np
import pytest

from crystal.data.images import ImageError
from crystal.files import OutputError
from crystal.prediction import watch
from crystal.prediction.outputs import OutputFolder
from crystal.prediction.watch import Arrivals, signature_of, stopped_by_signals, watch_folder
from tests.predictions import FakePredictor


def png(radius, height=80, width=100):
    """The bytes of a picture in which `FakePredictor` finds a disc of this radius."""
    return cv2.imencode(".png", np.full((height, width, 3), radius, np.uint8))[1].tobytes()


class Script:
    """In place of the event that stops: each wait does the next step, and the last one stops."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.stopped = not steps

    def is_set(self):
        return self.stopped

    def wait(self, seconds):
        if self.steps:
            self.steps.pop(0)()
        else:
            self.stopped = True


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The watched folder; files count as settled at the second look."""
    monkeypatch.setattr(watch, "SETTLED", 0.0)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def run(predictor, folder, script, settings=None, **more):
    said = []
    out = folder.parent / "out"
    settings = settings or {"score": 0.5}
    summary = watch_folder(predictor, folder, out, stop=script, settings=settings, said=said.append, **more)
    return summary, said


def images_of(out):
    with open(out / "drops.csv", newline="") as file:
        return sorted(row["image"] for row in csv.DictReader(file))


def test_a_file_is_ready_when_it_has_stayed_as_it_is(tmp_path):
    now = [0.0]
    arrivals = Arrivals(tmp_path, tmp_path / "out", {}, clock=lambda: now[0])
    path = tmp_path / "a.png"
    path.write_bytes(b"half")
    assert arrivals.ready() == {}
    now[0] += watch.SETTLED
    path.write_bytes(b"half and more")
    assert arrivals.ready() == {}, "it has grown"
    now[0] += watch.SETTLED / 2
    assert arrivals.ready() == {}
    now[0] += watch.SETTLED / 2
    [ready] = arrivals.ready()
    arrivals.handled(ready, signature_of(path))
    assert arrivals.ready() == {}
    os.utime(path, ns=(1, 1))
    arrivals.ready()
    now[0] += watch.SETTLED
    assert list(arrivals.ready()) == [path], "written anew"


def test_our_own_output_and_other_files_are_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SETTLED", 0.0)
    for name in ("a.png", "notes.txt", ".hidden.png", "out/overlays/a.jpg", "deep/er/b.TIF"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = Arrivals(tmp_path, tmp_path / "out", {}).ready()
    assert sorted(path.name for path in found) == ["a.png", "b.TIF"]


def test_results_may_go_where_the_pictures_are_or_above(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SETTLED", 0.0)
    for name in ("incoming/a.png", "incoming/overlays/a.jpg", "overlays/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    watched = tmp_path / "incoming"
    assert [path.name for path in Arrivals(watched, watched, {}).ready()] == ["a.png"]
    assert watched / "a.png" in Arrivals(watched, tmp_path, {}).ready()


def test_pictures_are_predicted_once_as_they_come(folder):
    predictor, out = FakePredictor(), folder.parent / "out"

    def second():
        assert images_of(out) == ["a.png"]
        (folder / "later").mkdir()
        (folder / "later" / "a.png").write_bytes(png(7))
        (folder / "half.png").write_bytes(png(8)[:60])

    def third():
        assert images_of(out) == ["a.png", "later/a.png"]
        (folder / "half.png").write_bytes(png(8))

    (folder / "a.png").write_bytes(png(6))
    summary, said = run(predictor, folder, Script(lambda: None, second, third, lambda: None))
    assert predictor.seen == [6, 7, 8]
    assert images_of(out) == ["a.png", "half.png", "later/a.png"]
    assert (summary.done, summary.crystals, summary.failed) == (3, 3, [])
    assert sum("tried again" in text for text in said) == 1
    assert len(json.loads((out / "predictions.json").read_text())["annotations"]) == 3
    assert len(list((out / "overlays").iterdir())) == 3


def test_a_start_goes_on_where_the_last_one_stopped(folder):
    """After a stop, and after a crash in the middle of a batch."""
    out = folder.parent / "out"
    for radius in (5, 6, 7):
        (folder / f"{radius}.png").write_bytes(png(radius))

    class Crashing(FakePredictor):
        def __call__(self, images):
            for number, found in enumerate(super().__call__(images)):
                if number == 2:
                    raise RuntimeError("power failure")
                yield found

    with pytest.raises(RuntimeError, match="power failure"):
        run(Crashing(), folder, Script(lambda: None))
    assert not (out / "drops.csv").exists(), "the batch was not complete"

    second = FakePredictor()
    run(second, folder, Script())
    assert (second.seen, images_of(out)) == ([], ["5.png", "6.png"]), "what was found is published at the next start"
    run(second, folder, Script(lambda: None))
    assert (second.seen, images_of(out)) == ([7], ["5.png", "6.png", "7.png"])
    before = (out / "crystals.csv").read_bytes()
    (out / ".watching" / "results" / "6.json").write_text("{")  # damaged: predicted again
    run(second, folder, Script(lambda: None))
    assert second.seen == [7, 6]
    assert sorted((out / "crystals.csv").read_bytes().splitlines()) == sorted(before.splitlines())


def test_a_picture_that_is_written_anew_replaces_its_result(folder):
    predictor, out = FakePredictor(), folder.parent / "out"
    (folder / "a.png").write_bytes(png(6))
    run(predictor, folder, Script(lambda: None))
    (folder / "a.png").write_bytes(png(9))
    run(predictor, folder, Script(lambda: None))
    assert predictor.seen == [6, 9]
    assert images_of(out) == ["a.png"]
    [annotation] = json.loads((out / "predictions.json").read_text())["annotations"]
    assert annotation["area"] > 200


def test_other_settings_and_other_processes_are_refused(folder):
    (folder / "a.png").write_bytes(png(6))
    run(FakePredictor(), folder, Script(lambda: None), settings={"score": 0.5, "zoom": "auto"})
    with pytest.raises(OutputError, match=r"other settings \(--zoom\)"):
        run(FakePredictor(), folder, Script(), settings={"score": 0.5, "zoom": "1,2"})
    out = folder.parent / "out"
    same = {"classes": ((0, "background"),), "score_threshold": 0.5, "labelme": False}
    with OutputFolder(out, **same, resume={"score": 0.5, "zoom": "auto"}), pytest.raises(OutputError, match="another"):
        run(FakePredictor(), folder, Script(), settings={"score": 0.5, "zoom": "auto"})
    with OutputFolder(out, **same, resume={"score": 0.5, "zoom": "auto"}), pytest.raises(OutputError, match="another"):
        OutputFolder(out, **same).__enter__()  # nor may a prediction without --watch replace what it writes
    with pytest.raises(ImageError, match="a folder that exists"):
        run(FakePredictor(), folder / "none", Script())


def test_a_prediction_without_watching_replaces_all_of_it(folder):
    (folder / "a.png").write_bytes(png(6))
    run(FakePredictor(), folder, Script(lambda: None))
    out = folder.parent / "out"
    with OutputFolder(out, classes=((0, "background"),), score_threshold=0.5, labelme=False) as new:
        new.publish()
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    assert list((out / "overlays").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_what_is_being_done_and_a_second_one_at_once(number):
    before = signal.getsignal(number)
    with stopped_by_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
