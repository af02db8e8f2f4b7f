"""plate.html: what it holds, that names stay text, and in a real browser (headless Chromium) that it answers."""

import csv
import json
import re
import shutil
from functools import partial

import cv2
import numpy as np
import pytest

from crystal.files import name_outputs
from crystal.pages.plate import write_plate_page
from crystal.prediction.calibration import Calibration
from crystal.prediction.outputs import OutputFolder
from tests.predictions import ONE_CLASS, WITH_DROP, disc, predicted

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


def crystals(*scores, radius=6):
    return [(disc((20 + 15 * k, 40), radius), score, 1) for k, score in enumerate(scores)]


def write_plate(folder, found, *, classes=ONE_CLASS, um=None):
    """A page of pictures of 100 x 80 with these predictions, by file name; the pictures lie in `folder`/in."""
    out, paths = folder / "out", [folder / "in" / name for name in found]
    (folder / "in").mkdir(parents=True, exist_ok=True)
    write = partial(write_plate_page, out=out, title="<b>plate</b> 7")
    with OutputFolder(
        out,
        classes=classes,
        score_threshold=0.5,
        labelme=False,
        calibration=Calibration(um),
        write_page=lambda path, page: write(path, page),
    ) as results:
        for path, name in name_outputs(paths).items():
            image = np.full((80, 100, 3), 90, np.uint8)
            cv2.imwrite(str(path), image)
            results.add(path, name, image, predicted(*found[path.name]))
        results.publish()
    return out / "plate.html"


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_the_results_and_loads_nothing(tmp_path):
    drop = (disc((50, 40), 38), 0.9, 2)
    page = write_plate(tmp_path, {"x_A01_2.png": [*crystals(0.9, 0.3), drop], "y z.png": []}, classes=WITH_DROP, um=2.0)
    text = page.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"""(?:src|href)=["']?(?!data:)[^"'> ]""", text), "links are made by the browser"
    first, second = data_of(page)["cards"]
    assert (first["well"], second["well"]) == ([0, 1, 2, "A1"], None)
    assert (first["size"], first["um"], second["crystals"]) == ([100, 80], 2.0, [])
    assert [crystal[0] for crystal in first["crystals"]] == [0.9, 0.3]
    assert (page.parent / second["original"].replace("%20", " ")).resolve() == tmp_path / "in" / "y z.png"
    assert (page.parent / first["overlay"]).exists()
    assert first["drop"]
    assert first["dispense"]


def test_names_are_text(tmp_path):
    bad = "<script>alert(1)<!--&\"'.png"
    page = write_plate(tmp_path, {bad: crystals(0.9)})
    text = page.read_text(encoding="utf-8")
    assert "<b>plate" not in text
    assert "alert(1)<" not in text
    assert data_of(page)["cards"][0]["name"] == bad


def test_a_plate_without_anything_and_one_of_very_many(tmp_path, monkeypatch):
    assert data_of(write_plate(tmp_path / "a", {"a.png": []}))["cards"][0]["crystals"] == []
    monkeypatch.setattr("crystal.pages.plate.MOST_ON_PAGE", 2)
    page = write_plate(tmp_path / "b", {f"{k}.png": crystals(0.5 + k / 10) for k in range(4)})
    assert [card["name"] for card in data_of(page)["cards"]] == ["3.png", "2.png"]
    assert "2 most promising of 4" in page.read_text()


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="it drives the browser: pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    found = {
        "x_A01_1.png": crystals(0.9, 0.7, 0.3),
        "x_A01_2.png": [],
        "x_B02_1.png": crystals(0.6, radius=9),
        "x_H12_3.png": crystals(0.2),
    }
    return write_plate(tmp_path_factory.mktemp("plate"), found, um=2.0)


@pytest.fixture
def page(chromium, plate):
    """The page as a person opens it, with a fresh browser profile; fails on any error and any request elsewhere."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(plate.as_uri())
    yield page
    context.close()
    assert errors == []
    assert all(url.startswith(("file://", "data:", "blob:")) for url in requests)


def titles(page):
    return page.locator(".card:not([hidden]) b").all_text_contents()


def slide(page, score):
    page.locator("#score").fill(str(score))


@in_browser
def test_the_slider_counts_anew(page):
    assert page.inner_text("#sum") == "2 of 4 drops with crystals, 3 crystals"
    assert titles(page) == ["A1 · 1", "B2 · 1", "H12 · 3", "A1 · 2"]
    before = page.locator(".card").first.locator(".line").get_attribute("d")
    slide(page, 0.1)
    assert page.inner_text("#sum") == "3 of 4 drops with crystals, 5 crystals"
    assert len(page.locator(".card").first.locator(".line").get_attribute("d")) > len(before)
    slide(page, 0.65)
    assert page.inner_text("#sum") == "1 of 4 drops with crystals, 2 crystals"
    assert page.inner_text("#score-shown") == "0.65"
    # Not its inner text: of a card that the browser has not drawn yet that is empty.
    assert "no crystals (best score 0.60)" in (page.locator(".card").nth(1).text_content() or "")


@in_browser
def test_filters_order_and_the_map(page):
    page.locator("#length").fill("30")  # micrometres: only the crystal of radius 9 is 38 long
    assert page.inner_text("#sum") == "1 of 4 drops with crystals, 1 crystal"
    page.locator("#length").fill("0")
    page.select_option("#sort", "largest")
    assert titles(page)[:2] == ["B2 · 1", "A1 · 1"]
    page.select_option("#sort", "name")
    assert titles(page) == ["A1 · 1", "A1 · 2", "B2 · 1", "H12 · 3"]
    page.select_option("#show", "hits")
    assert titles(page) == ["A1 · 1", "B2 · 1"]
    page.locator("#count").fill("2")
    assert titles(page) == ["A1 · 1"]
    assert page.inner_text("#sum").endswith("1 drop shown")
    assert page.locator(".well").count() == 96
    assert page.locator(".well button").count() == 4
    page.locator(".well button").nth(2).click()
    assert page.inner_text("#what").startswith("B2 · 1")


@in_browser
def test_keys_page_through_and_judge_and_the_verdicts_stay(page, tmp_path):
    page.locator(".card").first.click()
    assert page.inner_text("#place") == "1 of 4"
    assert page.locator("#list tr").count() == 2
    original = page.locator("#stage img")
    page.wait_for_function("document.querySelector('#stage img').src.startsWith('file:')")
    assert original.get_attribute("src").endswith("in/x_A01_1.png"), "the original took the small one's place"
    page.keyboard.press("c")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#what").startswith("B2 · 1")
    page.keyboard.press("n")
    for key, verdict in (("ArrowLeft", "crystal"), ("ArrowLeft", None), ("ArrowRight", "crystal")):
        page.keyboard.press(key)
        pressed = page.locator("[data-verdict][aria-pressed=true]").all_inner_texts()
        assert pressed == ([verdict] if verdict else [])
    assert page.locator("#stage .line").first.is_visible()
    page.keyboard.press("o")
    assert not page.locator("#stage .line").first.is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()

    page.reload()
    assert page.locator(".said:visible").all_inner_texts() == ["crystal", "no"]
    page.select_option("#show", "no")
    assert titles(page) == ["B2 · 1"]
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "verdicts.csv")
    with open(tmp_path / "verdicts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["well"], row["subwell"], row["verdict"], row["crystals"]) for row in rows] == [
        ("x_A01_1.png", "A1", "1", "crystal", "2"),
        ("x_A01_2.png", "A1", "2", "", "0"),
        ("x_B02_1.png", "B2", "1", "no", "1"),
        ("x_H12_3.png", "H12", "3", "", "0"),
    ]


@in_browser
def test_crystals_outside_the_drop_are_counted_on_demand(chromium, tmp_path):
    found = {"a.png": [(disc((30, 40), 28), 0.9, 2), (disc((30, 40), 5), 0.8, 1), (disc((85, 40), 5), 0.9, 1)]}
    page = chromium.new_page()
    page.goto(write_plate(tmp_path, found, classes=WITH_DROP).as_uri())
    assert page.inner_text("#sum") == "1 of 1 drop with crystals, 1 crystal"
    assert page.locator("#map").is_hidden(), "the name tells no well"
    page.check("#outside")
    assert page.inner_text("#sum") == "1 of 1 drop with crystals, 2 crystals"
    page.close()
