"""What a page is given is text: nothing of it becomes markup, and nothing of it is missing without an error."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from crystal.pages import page
from crystal.pages.page import ENVIRONMENT, write_page

TEMPLATES = Path(page.__file__).parent / "templates"


def test_all_that_is_given_is_escaped(tmp_path):
    bad = "<script>alert(1)</script>&\"'"
    table = (bad, [bad], [[bad]], bad)
    write_page(
        tmp_path / "page.html", "table1.html", title=bad, about=bad, note=bad, command=bad, tables=[table], charts=[]
    )
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#34;&#39;") == 9


def test_no_template_turns_escaping_off():
    names = ENVIRONMENT.list_templates()
    assert len(names) > 10
    for name in names:
        source = (TEMPLATES / name).read_text(encoding="utf-8")
        assert not any(word in source for word in ("safe", "autoescape", "http")), name


def test_what_is_missing_is_an_error_and_leaves_the_earlier_page(tmp_path):
    (tmp_path / "page.html").write_text("earlier")
    with pytest.raises(UndefinedError, match="about"):
        write_page(tmp_path / "page.html", "table1.html", title="Table 1")
    assert (tmp_path / "page.html").read_text() == "earlier"
