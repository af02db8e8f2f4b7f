"""The README and the pages of the site: their Python runs, and what it says it prints, it prints."""

import contextlib
import functools
import io
import re
from pathlib import Path

import cv2
import pytest

from crystal.drops.drop import draw_drop
from maskrcnn_jax import MaskRCNNConfig, checkpoint
from tests.small import SMALL, small_model

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAID = re.compile(r"^ *print\(.*\)  # ([\[(].*?[\])])(?:: .*)?$", re.MULTILINE)


def code(page: Path) -> str:
    return "\n".join(BLOCK.findall(page.read_text()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clone as the pages see it: a photograph, a run, and weights of a network that compiles in seconds."""
    folder = tmp_path_factory.mktemp("clone")
    drop = draw_drop(8, height=300, width=400, light=0.2, crystals=6)
    for name in ("photo.jpg", "drop.jpg"):
        cv2.imwrite(str(folder / name), drop.image[..., ::-1])
    for name in ("crystal/weights/crystal", "RUN"):
        checkpoint.save(small_model(), folder / name)
    return folder


def pages_with_code():
    for page in PAGES:
        if page.name != "README.md" and code(page):
            yield pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem == "own_data" else [])


def test_the_snippet_of_the_readme_is_that_of_the_first_page():
    assert code(PAGES[0]) == code(ROOT / "docs" / "index.md")


@pytest.mark.parametrize("page", [*pages_with_code()])
def test_the_python_of_a_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(MaskRCNNConfig, "tiny", lambda: SMALL)
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(compile(code(page), str(page), "exec"), names)
    for said in SAID.findall(code(page)):
        assert said in printed.getvalue()
    for mask in names.get("masks", ()):
        assert mask.shape == names["photo"].shape[:2]


def test_settings_that_pages_name_exist():
    names = re.compile(r"`((?:image|backbone|anchors|rpn|roi|detection)\.[a-z_.]+)")
    found = {name for page in PAGES for name in names.findall(page.read_text())}
    assert found
    for name in found:
        functools.reduce(getattr, name.split("."), MaskRCNNConfig())


def test_the_site_loads_nothing_from_the_network():
    settings = (ROOT / ".mkdocs.yml").read_text()
    assert "font: false" in settings
    assert "http" not in settings
