"""The report is one file that needs no other, and its numbers are the ones it was given."""

import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from crystal.data.dataset import Instance, Record
from crystal.data.images import ImageError
from crystal.data.segmentation import to_rle
from crystal.files import OutputError
from crystal.pages.charts import curve, smooth
from crystal.pages.report import RunView, write_report
from crystal.prediction.predictor import Prediction


class Page(HTMLParser):
    """Collects tags with their attributes, and the cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data):
        if self.open in ("td", "th"):
            self.cells.append(data)

    def handle_endtag(self, tag):
        self.open = None


BOXES = ((10, 10, 30, 30), (40, 35, 70, 50))


def record(path):
    """An image with two objects."""
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    instances = tuple(Instance(1, box, [outline(*box)], False, k) for k, box in enumerate(BOXES, 1))
    return Record(1, path, path.name, 60, 80, instances)


def outline(x1, y1, x2, y2):
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def model(counts):
    """Predicts the first objects of each image, as many as it is told; `counts` are those of the images it is given."""

    def predict(images):
        for _, count in zip(images, counts, strict=True):
            rles = [to_rle([outline(*box)], 60, 80) for box in BOXES[:count]]
            yield Prediction(np.array(BOXES[:count]), np.full(count, 0.9), np.ones(count, int), rles, np.ones(count))

    return predict


@pytest.fixture
def records(tmp_path):
    return [record(tmp_path / f"drop<{i}>.png") for i in range(4)]


@pytest.fixture
def runs():
    """Of four images the last, without an object, is shown by neither."""
    losses = ("loss", "loss_rpn_class", "loss_rpn_box", "loss_roi_class", "loss_roi_box", "loss_roi_mask")
    metrics = [{"step": i, **dict.fromkeys(losses, 1 / (i + 1))} for i in range(200)] + [{"step": 100, "val_map": 0.5}]
    plain = {"map_050_10": 0.611, "map_065_100": 0.412, "map_050_100": 0.513, "coco_segm_ap": math.nan, "steps": 1234}
    clahe = {"map_050_10": 0.711, "map_065_100": 0.512, "map_050_100": 0.613, "seconds": 98.7}
    return {
        "plain": RunView(plain, [0.0, 0.5, 1.0, None], metrics, model([0, 1, 2])),
        "clahe": RunView(clahe, [0.5, 1.0, 1.0, None], metrics, model([1, 2, 2])),
    }


def test_the_page_stands_alone(tmp_path, runs, records):
    path = write_report(tmp_path / "report.html", runs, records, samples=3)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:", text)  # without the colon it may occur in a picture's base64
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/"))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2 + 3 * 3 + 3 * 2  # CLAHE, three samples, and three that are not perfect
    assert all(attributes["alt"] for attributes in pictures)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 7
    assert all(attributes["aria-label"] for attributes in charts)
    assert "drop&lt;0&gt;.png" in text  # names are text, not markup
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_tables_hold_the_numbers(tmp_path, runs, records):
    cells = Page(write_report(tmp_path / "report.html", runs, records, samples=3).read_text(encoding="utf-8")).cells
    first = cells.index("10 images, IoU 0.50")
    assert cells[first + 1 : first + 5] == ["0.611", "0.711", "0.668", "0.703"]
    assert cells[first + 5 : first + 10] == ["100 images, IoU 0.65", "0.412", "0.512", "0.302", "0.430"]
    steps = cells.index("training steps")
    assert cells[steps + 1 : steps + 6] == ["1,234", "–", "seconds of training", "–", "99"]
    assert cells[cells.index("COCO AP of masks, IoU 0.50 to 0.95") + 1] == "–"
    assert "COCO AP of boxes, IoU 0.50 to 0.95" not in cells  # neither run has it


def test_failures_come_worst_first_and_no_more_is_predicted(tmp_path, runs, records):
    """Without samples: each run predicts its failures alone, and a perfect image is none."""
    runs = {"plain": runs["plain"]._replace(predict=model([0, 1])), "clahe": runs["clahe"]._replace(predict=model([1]))}
    text = write_report(tmp_path / "report.html", runs, records, samples=0).read_text(encoding="utf-8")
    failures = text[text.index("Failures, worst first") :]
    assert [float(ap) for ap in re.findall("AP\N{NO-BREAK SPACE}([0-9.]+[0-9])", failures)] == [0.0, 0.5, 0.5]
    assert "0 of 2 crystals found" in failures
    assert "Ground truth beside prediction" not in text


def test_no_runs_and_lost_images(tmp_path, runs, records):
    path = write_report(tmp_path / "report.html", {}, [])
    text = path.read_text(encoding="utf-8")
    assert "0.668" in text
    assert "<img" not in text
    records[0].path.unlink()
    with pytest.raises(ImageError, match="drop<0>"):
        write_report(path, runs, records)
    assert path.read_text(encoding="utf-8") == text
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(tmp_path / "nowhere" / "report.html", {}, [])


def test_curves():
    metrics = [{"step": i, "loss": float(i % 2)} for i in range(600)] + [{"step": 7, "val_map": 0.3}]
    steps, values = curve(metrics, "val_map")
    assert (steps.tolist(), values.tolist()) == ([7.0], [0.3])
    steps, values = smooth(*curve(metrics, "loss"))
    assert len(steps) == 60
    assert set(values) == {0.5}
    assert all(len(part) == 0 for part in smooth(*curve(metrics, "no such loss")))
