"""`python -m maskrcnn_jax.lessons`: lists the lessons, opens one in the browser, or writes them as HTML files."""

import argparse
import importlib.util
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from maskrcnn_jax.lessons.catalogue import Lesson, lessons

NEEDED = ("marimo", "latex2mathml")
# Without this, marimo's editor shows no results until each cell is run by hand.
RUN_AT_ONCE = "[tool.marimo.runtime]\nauto_instantiate = true\n"


def open_lesson(lesson: Lesson, folder: Path, *, headless: bool) -> int:
    """Open a copy of the lesson, which keeps the solutions of the exercises; an existing copy is opened again."""
    copy = folder / lesson.path.name
    if copy.exists():
        print(f"{copy} exists: continuing with it (remove it to start again)")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(lesson.path, copy)
        print(f"{copy}: your own copy; what you change there is saved there", flush=True)
    settings = folder / "pyproject.toml"
    if not settings.exists():
        settings.write_text(RUN_AT_ONCE)
    return serve([sys.executable, "-m", "marimo", "edit", str(copy), *(["--headless"] if headless else [])])


def serve(command: list[str]) -> int:
    """Run a server until it ends, or until this process is told to stop, which stops the server."""
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(one, lambda number, _: sys.exit(128 + number)) for one in signals]
    server = subprocess.Popen(command)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)


def main(
    lesson: int | None = None, *, folder: Path = Path("lessons"), headless: bool = False, export: Path | None = None
) -> int:
    """List the lessons, open the chosen one, or write it (or all and an index) into `export`. Returns the exit code."""
    found = lessons()
    chosen = [one for one in found if lesson in (None, one.number)]
    if not chosen:
        print(f"there is no lesson {lesson}; choose one of 1 to {found[-1].number}", file=sys.stderr)
        return 2
    if export is not None:
        from maskrcnn_jax.lessons import export as pages

        beside = chosen if len(chosen) > 1 else ()
        for one in chosen:
            print(pages.export(one, export, beside), flush=True)
        if beside:
            print(pages.write(pages.index_html(beside), export / pages.INDEX), flush=True)
        return 0
    if lesson is not None:
        return open_lesson(chosen[0], folder, headless=headless)
    for one in found:
        print(f"{one.number:4d}  {one.title}")
    print("\nOpen one: python -m maskrcnn_jax.lessons NUMBER      All as HTML: --export FOLDER")
    return 0


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m maskrcnn_jax.lessons",
        description="Lessons on Mask R-CNN, one component each. Without a number they are listed.",
    )
    parser.add_argument("lesson", type=int, nargs="?", help="number of the lesson to open in the browser")
    parser.add_argument(
        "--folder", type=Path, default=Path("lessons"), help="where your copy of the lesson lies, with your solutions"
    )
    parser.add_argument("--headless", action="store_true", help="start the server without opening a browser")
    parser.add_argument(
        "--export",
        type=Path,
        help="write the lesson (or all, with an index.html) into this folder as HTML files that need no network",
    )
    return parser.parse_args()


if __name__ == "__main__":
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f'{" and ".join(missing)} missing: pip install "maskrcnn-jax[lessons]"')
    sys.exit(main(**vars(options())))
