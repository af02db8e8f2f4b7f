"""Two lessons in a real browser (headless Chromium): a slider is moved, and the picture answers."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from maskrcnn_jax.lessons.catalogue import lessons

pytest.importorskip("marimo", reason='the lessons need marimo: pip install -e ".[lessons]"')
api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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
