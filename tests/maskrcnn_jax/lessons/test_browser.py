"""Lessons in a real browser (headless Chromium): opened by the typed command, and with a slider moved."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from maskrcnn_jax.lessons.catalogue import lessons

pytest.importorskip("marimo", reason='the lessons need marimo: pip install -e ".[lessons]"')
api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def served(lesson):
    """The lesson's address, as `marimo run` serves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", str(lesson.path), "--headless", "--no-token", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=5).close()
                break
            assert server.poll() is None, "the server ended"
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.parametrize(("number", "label"), [(3, "clip limit"), (7, "x1 (left)")])
def test_a_slider_changes_the_picture(browser, number, label):
    lesson = next(lesson for lesson in lessons() if lesson.number == number)
    with served(lesson) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        outside = []
        page.on("request", lambda request: outside.append(request.url) if address not in request.url else None)
        page.goto(address)
        pictures = page.locator(".panels").first
        pictures.locator("img").first.wait_for(timeout=90_000)
        page.get_by_text("Next:").first.wait_for(timeout=90_000)  # the last cell has run
        before = pictures.inner_html()

        slider = page.locator("marimo-slider").filter(has_text=label).get_by_role("slider")
        slider.focus()
        for _ in range(5):
            slider.press("ArrowRight")
        page.wait_for_function(
            "before => document.querySelector('.panels').innerHTML !== before", arg=before, timeout=60_000
        )
        assert page.get_by_text("Traceback").count() == 0
        assert all(url.startswith(("data:", "blob:")) for url in outside), "works without a network"
        page.close()


def processor_seconds(server):
    """Of a process and all that it started."""
    return sum(sum(p.cpu_times()[:2]) for p in (server, *server.children(recursive=True)))


@contextlib.contextmanager
def opened(browser, number, folder):
    """(page, process) of a lesson as people open it: by the typed command, at the address that it prints."""
    command = [sys.executable, "-m", "maskrcnn_jax.lessons", str(number), "--headless"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    tree = psutil.Process(server.pid)
    try:
        assert server.stdout
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        threading.Thread(target=server.stdout.read, daemon=True).start()  # a full pipe would hold the server up
        page = browser.new_page()
        for _ in range(300):  # the address is printed before there is a server
            with contextlib.suppress(api.Error):
                page.goto(address)
                break
            assert server.poll() is None, "the server ended"
            time.sleep(0.2)
        yield page, tree
        page.close()
    finally:
        started = tree.children(recursive=True)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        _, alive = psutil.wait_procs(started, 15)
        for process in alive:
            process.kill()
    assert started, "a server, and the kernel that runs the cells"
    assert alive == [], "stopping the launcher stops them"


@pytest.mark.parametrize("number", [3, 7, 10])
def test_the_typed_command_soon_shows_a_picture_and_a_verdict(browser, number, tmp_path):
    """Within 20 seconds, measured as the processor's time: how long it takes here depends on what else runs."""
    with opened(browser, number, tmp_path) as (page, server):
        page.locator(".panels img").first.wait_for(timeout=120_000)
        page.locator(".verdict").first.wait_for(timeout=120_000)
        assert processor_seconds(server) < 20
