"""`python -m maskrcnn_jax.lessons`: the list, a reader's own copy, pages."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

pytest.importorskip("marimo", reason='the lessons need marimo: pip install -e ".[lessons]"')

from maskrcnn_jax.lessons import __main__ as runner
from maskrcnn_jax.lessons.catalogue import lessons


def test_without_a_number_all_are_listed(capsys):
    assert runner.main() == 0
    listed = capsys.readouterr().out
    for lesson in lessons():
        assert f"{lesson.number}  {lesson.title}\n" in listed


def test_a_lesson_is_opened_as_a_copy_and_gone_on_with(tmp_path, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(runner, "serve", lambda command: commands.append(command) or 0)
    assert runner.main(7, folder=tmp_path / "mine", headless=True) == 0
    copy = tmp_path / "mine" / "lesson_07_roi_align.py"
    assert copy.read_text() == lessons()[6].path.read_text()
    assert commands == [[sys.executable, "-m", "marimo", "edit", str(copy), "--headless"]]

    copy.write_text("solved")
    assert runner.main(7, folder=tmp_path / "mine") == 0
    assert copy.read_text() == "solved", "solutions are not overwritten"
    assert "continuing with it" in capsys.readouterr().out


def test_the_command_as_typed_serves_a_lesson_whose_cells_run_at_once_until_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "maskrcnn_jax.lessons", "1", "--headless"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())  # the token becomes a cookie
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as server:
        try:
            assert server.stdout
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            page = ""
            while not page:
                with contextlib.suppress(urllib.error.URLError):  # the address is printed before there is a server
                    page = opener.open(address, timeout=60).read().decode()
                time.sleep(0.1)
            assert re.search(r'"auto_instantiate": *true', page)
            started = psutil.Process(server.pid).children(recursive=True)
            os.killpg(server.pid, signal.SIGINT)  # as a terminal sends it, to the launcher and to marimo
            assert server.wait(30) == 0
            assert started
            assert psutil.wait_procs(started, 15)[1] == [], "the server has stopped with the launcher"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
    assert "auto_instantiate = true" in (tmp_path / "lessons" / "pyproject.toml").read_text()


def test_settings_that_are_there_stay(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("mine")
    monkeypatch.setattr(runner, "serve", lambda command: 0)
    assert runner.main(1, folder=tmp_path) == 0
    assert (tmp_path / "pyproject.toml").read_text() == "mine"


def test_a_number_that_is_none_is_refused(capsys):
    assert runner.main(99) == 2
    assert f"there is no lesson 99; choose one of 1 to {len(lessons())}" in capsys.readouterr().err


def test_pages_are_written(tmp_path, monkeypatch, capsys):
    export = pytest.importorskip("maskrcnn_jax.lessons.export")
    monkeypatch.setattr(export, "static_html", lambda lesson, beside: lesson.title)
    assert runner.main(export=tmp_path) == 0
    pages = {path.name for path in tmp_path.glob("*.html")}
    assert len(pages) == len(lessons()) + 1
    index = (tmp_path / "index.html").read_text()
    assert set(re.findall(r'href="(.+?)"', index)) == pages - {"index.html"}
    assert all(lesson.summary[1:] in index for lesson in lessons())
    assert runner.main(3, export=tmp_path / "one") == 0
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["03_clahe.html"]
    assert "03_clahe.html" in capsys.readouterr().out


def test_without_marimo_one_sentence_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'marimo' else find(name, *rest)\n"
    )
    root = Path(__file__).parents[3]
    found = subprocess.run(
        [sys.executable, "-m", "maskrcnn_jax.lessons"],
        env={"PYTHONPATH": f"{tmp_path}:{root}", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert found.stderr.strip() == 'marimo missing: pip install "maskrcnn-jax[lessons]"'
