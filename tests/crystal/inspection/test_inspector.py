"""What is shown of an image is what the network computes, stage by stage, and the page that shows it holds together."""

import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal import cli
from crystal.data.ground_truth import GroundTruthError
from crystal.data.images import prepare, read_image
from crystal.data.loader import MASK_SIZE
from crystal.data.preparation import Collate, Sources, Vary
from crystal.inspection.targets import NoGroundTruth, find_truth
from crystal.inspection.views import FollowedViews, follow_views
from crystal.pages.inspect import image_part, write_inspections
from crystal.prediction.predictor import Prediction, Predictor
from maskrcnn_jax import checkpoint
from maskrcnn_jax.structures import GroundTruth
from tests import oracles
from tests.inspected import HEIGHT, OBJECTS, WIDTH, inspected
from tests.small import SMALL, small_model


@pytest.fixture(scope="module")
def seen():
    return inspected()


@pytest.fixture(scope="module")
def whole(seen):
    """(stages, losses) of the network as one program, and of the batch that training would be given."""
    model, inspection, training, path, _ = seen
    pixels, place = prepare(read_image(path), size=(64, 64), clahe=True)
    np.testing.assert_array_equal(inspection.pixels, pixels)
    views = dict(size=(64, 64), zooms=(1.0, 1.0), mask_size=MASK_SIZE)
    source = Sources([training.truth.record], clahe=True, cache_bytes=0, **views)[0]
    example = Vary(slots=2, how=None, **views)(source, np.random.default_rng(0))
    batch = Collate(2)([example])
    np.testing.assert_array_equal(batch.images[0], pixels)
    truth = GroundTruth(*map(jnp.asarray, (batch.boxes, batch.classes, batch.masks, batch.valid, batch.crowd)))

    @jax.jit
    def run(images, windows, truth, key):
        return model.stages(images, windows), model.losses(images, truth, key, windows)

    windows = jnp.asarray(place.window, jnp.float32)[None]
    return jax.tree.map(np.asarray, run(jnp.asarray(pixels)[None], windows, truth, jax.random.key(0)))


def test_every_stage_equals_the_whole_network(seen, whole):
    inspection, stages = seen[1], whole[0]
    near = dict(rtol=1e-4, atol=1e-4)
    for name, level in inspection.maps.items():
        np.testing.assert_allclose(level, getattr(stages, name.lower())[0], **near)
    np.testing.assert_allclose(inspection.objectness, stages.objectness[0], **near)
    np.testing.assert_array_equal(inspection.anchors, stages.anchors)
    valid = inspection.proposals.valid
    np.testing.assert_array_equal(valid, stages.proposals.valid[0])
    np.testing.assert_allclose(inspection.proposals.boxes, stages.proposals.boxes[0], **near)
    expected = jax.nn.softmax(stages.class_logits[0], -1)
    np.testing.assert_allclose(inspection.probabilities[valid], expected[valid], **near)
    for ours, theirs in zip(inspection.detections, stages.detections, strict=True):
        np.testing.assert_allclose(ours, theirs[0], **near)
    assert inspection.detections.valid.any()


def test_what_nms_chose_among_and_where_it_came_from(seen):
    _, inspection, *_ = seen
    ranked, refined = inspection.ranked, inspection.refined
    kept, valid = ranked.selected[ranked.filled], inspection.proposals.valid
    np.testing.assert_array_equal(ranked.boxes[kept], inspection.proposals.boxes[valid])
    np.testing.assert_array_equal(ranked.scores, inspection.objectness[ranked.anchor])
    assert 0 < len(kept) < ranked.valid.sum()

    kept, found = refined.selected[refined.filled], inspection.detections
    np.testing.assert_array_equal(refined.boxes[kept], found.boxes[found.valid])
    probability = inspection.probabilities[refined.roi[kept], refined.classes[kept]]
    np.testing.assert_allclose(probability, found.scores[found.valid], rtol=1e-6)
    # Those behind the detections are looked at first.
    behind = list(dict.fromkeys(refined.roi[kept].tolist()))
    assert inspection.chosen[: len(behind)].tolist() == behind[: len(inspection.chosen)]
    assert len(set(inspection.chosen.tolist())) == len(inspection.chosen)


def test_the_grid_shows_where_the_pooled_features_were_read(seen):
    _, inspection, *_ = seen
    rows, columns = inspection.grid
    assert SMALL.roi.pooling.sampling_ratio == 1
    for n, index in enumerate(inspection.chosen):
        features = inspection.maps[f"P{inspection.levels[index]}"]
        for i, y in enumerate(rows.position[n, :, 0]):
            for j, x in enumerate(columns.position[n, :, 0]):
                inside = np.clip([y, x], 0, np.array(features.shape[:2]) - 1)  # as samples a little outside are read
                expected = oracles.bilinear(features, *inside)
                np.testing.assert_allclose(inspection.pooled[n, i, j], expected, rtol=1e-4, atol=1e-4)


def test_losses_are_those_of_training(seen, whole):
    losses = seen[2].losses
    np.testing.assert_allclose(np.array(losses), np.array(whole[1]), rtol=1e-4)
    assert all(loss > 0 for loss in losses)


def test_which_objects_no_anchor_reaches(seen):
    _, inspection, training, *_ = seen
    boxes = np.array(OBJECTS, float) * 64 / WIDTH + [0, 8, 0, 8]  # 64 x 48 pixels, 8 rows of padding above
    np.testing.assert_allclose(training.boxes, boxes, atol=0.6)
    expected = oracles.box_iou(training.boxes, inspection.anchors).max(1)
    np.testing.assert_allclose(training.reached, expected, atol=1e-5)
    assert training.reached[0] > 0.5 > training.reached[1]
    kept = inspection.proposals.boxes[inspection.proposals.valid]
    np.testing.assert_allclose(training.proposed, oracles.box_iou(training.boxes, kept).max(1), atol=1e-5)
    drawn = inspection.anchors[training.supervision.anchors.indices]
    np.testing.assert_array_equal(training.owner, oracles.box_iou(training.boxes, drawn).argmax(0))
    assert training.supervision.anchors.positive.any()


def test_every_stage_has_a_time_and_a_shape(seen):
    _, inspection, *_ = seen
    assert len(inspection.times) == 13
    assert all(t.seconds > 0 and t.result for t in inspection.times)
    assert "16 x 16 x 8" in inspection.times[3].result.replace("\N{NO-BREAK SPACE}", " ")  # C2 of 64 pixels
    assert [t.compiling is None for t in inspection.times].count(True) == 4  # read, CLAHE, letterbox, paste


def test_truth_beside_the_image_is_optional_one_that_was_named_is_not(seen):
    _, _, training, path, _ = seen
    classes = ((0, "background"), (1, "salt"))
    assert training.truth.source == path.with_suffix(".json")
    beside = find_truth(path, (HEIGHT, WIDTH), None, classes)
    assert isinstance(beside, NoGroundTruth)
    assert "'crystal'" in beside.reason
    assert "salt" in beside.reason
    with pytest.raises(GroundTruthError, match=r"drop\.json.*'crystal'"):
        find_truth(path, (HEIGHT, WIDTH), path.with_suffix(".json"), classes)
    lonely = find_truth(path.with_name("other.png"), (HEIGHT, WIDTH), None, SMALL.classes)
    assert isinstance(lonely, NoGroundTruth)
    assert "other.json" in lonely.reason


# -- the page ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Text, attributes and pictures of a page whose tags close in the order in which they open."""

    EMPTY = frozenset({"meta", "img", "br", "link", "path", "use", "rect"})

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.attributes, self.words, self.tags = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.words.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


NOTHING = Prediction(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), [], np.zeros(0))


def nothing_found(followed):
    """The same views, in which nothing was found."""
    none = np.zeros(0, int)
    return FollowedViews(followed.views, [NOTHING] * len(followed.views), none, NOTHING, none)


def page_of(seen, folder, **changes):
    _, inspection, training, path, followed = seen
    given = {"image": path, "inspection": inspection, "followed": followed, "targets": training, "score": 0.5} | changes
    out = folder / "made" / "page.html"
    write_inspections(out, [image_part(1, weights=Path("runs/some"), **given)])
    assert [p.name for p in out.parent.iterdir()] == ["page.html"]
    return Page(out)


def test_the_page_tells_every_stage_and_needs_nothing_from_outside(seen, tmp_path):
    page = page_of(seen, tmp_path)
    sources = [value for name, value in page.attributes if name in ("src", "srcset", "data")]
    assert len(sources) == page.tags.count("img") > 30
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    ids = [value for name, value in page.attributes if name == "id"]
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(ids)
    style = (tmp_path / "made" / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", style)

    _, inspection, training, *_ = seen
    text = page.text
    for n in range(1, 6):
        assert f"C{n}: {64 >> n} x {64 >> n} cells of {2**n} pixels" in text
        assert f"P{n + 1}: {64 >> n + 1} x {64 >> n + 1} cells" in text
    assert "1,023 in all" in text
    assert "1 of 2 objects overlaps no anchor" in text
    for loss in training.losses:
        assert f"{loss:.4f}" in text
    assert f"After NMS: {int(inspection.detections.valid.sum())} detections" in text
    assert all(t.name in text for t in inspection.times)


def test_a_page_without_truth_and_without_detections(seen, tmp_path):
    _, inspection, *_ = seen
    none = np.zeros_like(inspection.detections.valid)
    empty = inspection._replace(
        equalised=None,
        detections=inspection.detections._replace(valid=none),
        refined=inspection.refined._replace(valid=np.zeros_like(inspection.refined.valid), filled=none),
    )
    text = page_of(
        seen, tmp_path, inspection=empty, followed=nothing_found(seen[4]), targets=NoGroundTruth("none <was> given")
    ).text
    assert "finds no objects" in text
    assert "nothing is detected" in text
    assert "no matches and no losses: none <was> given" in text
    assert "does not use CLAHE" in text


def test_a_page_of_an_image_that_proposes_nothing_or_holds_nothing(seen, tmp_path):
    """Every box fell out, and nobody outlined anything: the tables stay, the charts and pictures that need some go."""
    _, inspection, training, *_ = seen
    nothing = inspection._replace(
        proposals=inspection.proposals._replace(valid=np.zeros_like(inspection.proposals.valid)),
        ranked=inspection.ranked._replace(
            valid=np.zeros_like(inspection.ranked.valid), filled=np.zeros_like(inspection.ranked.filled)
        ),
        refined=inspection.refined._replace(
            valid=np.zeros_like(inspection.refined.valid), filled=np.zeros_like(inspection.refined.filled)
        ),
        detections=inspection.detections._replace(valid=np.zeros_like(inspection.detections.valid)),
        chosen=np.zeros(0, int),
    )
    alone = training._replace(
        truth=training.truth._replace(record=training.truth.record._replace(instances=())),
        boxes=np.zeros((0, 4)),
        numbers=[],
        reached=np.zeros(0),
        proposed=np.zeros(0),
    )
    text = page_of(seen, tmp_path, inspection=nothing, followed=nothing_found(seen[4]), targets=alone).text
    assert "outlines no objects" in text


def test_names_of_files_and_classes_are_text(seen, tmp_path):
    _, inspection, *_ = seen
    bad = "<img src=x>&amp;"
    config = dataclasses.replace(inspection.config, classes=((0, bad), (1, "<b>crystal</b>")))
    page = page_of(seen, tmp_path, image=Path("<script>.png"), inspection=inspection._replace(config=config))
    assert "<script>.png on its way" in page.text
    assert bad in page.text
    assert "<b>crystal</b>" in page.text
    assert not {"script", "b"} & set(page.tags)


def test_a_page_that_fails_leaves_the_earlier_one(seen, tmp_path, monkeypatch):
    earlier = tmp_path / "made" / "page.html"
    earlier.parent.mkdir()
    earlier.write_text("earlier")
    monkeypatch.setattr("crystal.pages.inspect_sections.pictures.sampling", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page_of(seen, tmp_path)
    assert earlier.read_text() == "earlier"


@pytest.fixture
def command(seen, tmp_path, monkeypatch):
    """(exit code, page) of `crystal inspect` on these arguments, with the network run before."""

    def call(*arguments):
        out = tmp_path / "page.html"
        monkeypatch.setattr(sys, "argv", ["crystal", "inspect", *arguments, "--weights", "run", "--out", str(out)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, Page(out) if out.exists() else None

    monkeypatch.setattr("crystal.pages.inspect.load_run", lambda weights: seen[0])
    monkeypatch.setattr("crystal.pages.inspect.Inspector.follow", lambda self, image: (seen[1], None))
    monkeypatch.setattr("crystal.pages.inspect.supervise", lambda *_: seen[2])
    monkeypatch.setattr("crystal.pages.inspect.follow_views", lambda *_: seen[4])
    return call


def test_from_the_command_line(seen, command, capsys):
    code, page = command(str(seen[3]))
    assert code == 0
    assert "drop.json" in capsys.readouterr().out.replace("\n", "")
    assert "drop.png on its way" in page.text


def test_several_images_are_on_one_page_and_bad_ones_are_listed(seen, command, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG and no more")
    code, page = command(str(seen[3]), str(tmp_path / "bad.png"), str(seen[3]), "--score", "0.01")
    assert code == 1
    assert "bad.png" in capsys.readouterr().out.split("skipped:")[1]
    assert "2 images on their way" in page.text
    ids = [value for name, value in page.attributes if name == "id" and re.match(r"image-|\d", value)]
    assert len(ids) == len(set(ids)), "sections of both images can be linked to"
    assert {"image-1", "image-2", "1-views", "2-views"} <= set(ids)
    assert "Found are crystals of score 0.01 or more" in page.text


# -- views -------------------------------------------------------------------------------------------------------------


def test_views_are_those_of_predict(seen):
    model, inspection, _, _, followed = seen
    (whole,) = Predictor(model, zoom=(1.0, 2.0))([inspection.image])
    np.testing.assert_array_equal(followed.prediction.scores, whole.scores)
    np.testing.assert_array_equal(followed.prediction.boxes, whole.boxes)
    every = np.concatenate([one.boxes for one in followed.found])
    np.testing.assert_array_equal(every[followed.source], whole.boxes)
    assert len(whole.scores) < len(every), "some were found more than once"
    assert {view.zoom for view in followed.views} == {1.0, 2.0}


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_the_page_counts_what_each_zoom_found_and_what_merging_kept(seen, tmp_path, score):
    followed = seen[4]
    text = page_of(seen, tmp_path, score=score).text
    shown = np.concatenate([one.scores for one in followed.found]) >= score
    for zoom in (1, 2):
        own = shown & np.isin(followed.origin, [n for n, view in enumerate(followed.views) if view.zoom == zoom])
        kept = own[followed.source] & (followed.prediction.scores >= score)
        assert f"{own.sum()} found, {kept.sum()} kept. White lines" in text
    result = (followed.prediction.scores >= score).sum()
    assert f"in total {len(followed.views)} {shown.sum()} {result}" in text
    lower = len(followed.prediction.scores) - result
    assert ("more of a lower score" in text) == (lower > 0)


def test_of_one_view_the_page_speaks_of_no_tiles(seen, tmp_path):
    only = follow_views(Predictor(seen[0]), seen[1].image)
    assert len(only.views) == 1
    text = page_of(seen, tmp_path, followed=only).text
    assert "The network looked at the whole image only" in text
    assert "The tiles that gave most" not in text


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small"
    checkpoint.save(small_model(), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{t}/none.png --weights {w} --out {t}/page.html", "none.png: cannot be read"),
        ("{t}/bad.png --weights {w} --out {t}/page.html", "bad.png: cannot be decoded"),
        ("{t} --weights {w} --out {t}/page.html", "directory"),
        ("{t}/good.png --weights {t}/none --out {t}/page.html", "there is no such folder"),
        ("{t}/good.png --weights {w} --out {t}/good.png", "ends in .html"),
        ("{t}/bad.png {t}/none.png --weights {w} --out {t}/page.html", "no image could be read"),
        ("{t}/good.png --weights {w} --out {t}/page.html --truth {t}/none.json", "none.json: cannot be read"),
        ("{t}/good.png --weights {w} --out {t}/page.html --truth {t}/bad.json", "bad.json: is not valid JSON"),
    ],
)
def test_bad_input_ends_in_one_sentence(monkeypatch, capsys, weights, tmp_path, arguments, said):
    cv2.imwrite(str(tmp_path / "good.png"), np.full((40, 50), 128, np.uint8))
    good = (tmp_path / "good.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "bad.json").write_text("{")
    words = [part.format(t=tmp_path, w=weights) for part in arguments.split()]
    monkeypatch.setattr(sys, "argv", ["crystal", "inspect", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    message = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert left.value.code == 1
    assert len(message) == 1
    assert message[0].startswith("error: ")
    assert said in message[0].lower() or said in message[0]
    assert not (tmp_path / "page.html").exists()
    assert (tmp_path / "good.png").read_bytes() == good


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("a.png --score 2", "--score 2.0: must be from 0 to 1"),
        ("a.png b.png --truth a.json", "--truth is of one image"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_read(monkeypatch, capsys, arguments, said):
    words = [*arguments.split(), "--weights", "run", "--out", "page.html"]
    monkeypatch.setattr(sys, "argv", ["crystal", "inspect", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert said in " ".join(re.sub(r"[\u2500-\u257f]", " ", capsys.readouterr().err).split())
