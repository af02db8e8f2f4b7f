"""A lesson as a page of its own: formulas, controls, words, and what is refused. (All pages: test_lessons.py.)"""

import re

import pytest

pytest.importorskip("marimo", reason='the lessons need marimo: pip install -e ".[lessons]"')

import marimo as mo

from maskrcnn_jax.lessons import export, guide
from maskrcnn_jax.lessons.catalogue import lessons


def test_formulas_become_mathml():
    page = export.plain(mo.md("A mean $\\frac{a}{b}$ and\n\n$$x < y$$").text)
    assert "marimo" not in page
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in page
    assert 'display="block"' in page
    assert "&lt;" in page or "&#x0003C;" in page


def test_sums_are_large_in_formulas_of_their_own():
    page = export.plain(mo.md("Of $\\sum_i a_i$:\n\n$$\\frac{\\sum_i a_i}{n}$$").text)
    inline, own = re.findall(r"<math.*?</math>", page)
    assert 'display="block"' in own
    assert 'class="sum"' in own
    assert 'class="sum"' not in inline


def test_controls_say_where_they_stand():
    row = mo.hstack(
        [
            mo.ui.slider(0, 9, value=4, label="clip limit"),
            mo.ui.dropdown(["8 x 8", "4 x 4"], value="8 x 8", label="tiles"),
            mo.ui.checkbox(value=True, label="poor ones too"),
        ]
    )
    page = export.plain(row.text)
    for text in ("clip limit: <b>4</b>", "tiles: <b>8 x 8</b>", "poor ones too: <b>True</b>"):
        assert text in page


def test_what_has_no_static_form_is_refused():
    with pytest.raises(ValueError, match="marimo-callout-output> has no static form"):
        export.plain(mo.callout(mo.md("x")).text)


def test_words_are_counted_without_code_and_formulas():
    page = "<body><p>two words</p><pre>x = 1</pre><math>a b c</math><details>d e</details><img alt='f g'></body>"
    assert export.visible_words(page) == 2


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    lesson = lessons()[0]
    monkeypatch.setattr(export, "static_html", lambda lesson, beside: "<html>first</html>")
    path = export.export(lesson, tmp_path / "new" / "pages")
    assert path.name == "01_boxes.html"
    monkeypatch.setattr(export, "static_html", lambda lesson, beside: "second")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        export.export(lesson, path.parent)
    assert path.read_text() == "<html>first</html>"
    assert [p.name for p in path.parent.iterdir()] == ["01_boxes.html"], "nothing half-written is left"


def test_in_the_built_site_links_lead_to_its_pages(tmp_path, monkeypatch):
    text = guide.start(5, know="NumPy", pages={"Boxes": "components/boxes"}, papers={"FPN": "section 3"}).text
    monkeypatch.setattr(export, "static_html", lambda lesson, beside: text)
    apart = export.export(lessons()[0], tmp_path / "lessons").read_text()
    assert f'href="{guide.SITE}/components/boxes.html"' in apart
    assert guide.SERVED in apart
    (tmp_path / "components").mkdir()
    inside = export.export(lessons()[0], tmp_path / "lessons").read_text()
    assert 'href="../components/boxes.html"' in inside
    assert "mkdocs" not in inside


def test_a_page_links_to_the_one_before_the_index_and_the_one_after():
    found = lessons()
    assert export.navigation(found[0], ()) == ""
    hrefs = [
        re.findall(r'href="(.+?)"', export.navigation(lesson, found)) for lesson in (found[0], found[5], found[-1])
    ]
    assert hrefs == [
        ["index.html", "02_anchors.html"],
        ["05_rpn.html", "index.html", "07_roi_align.html"],
        [found[-2].page, "index.html"],
    ]
