"""`crystal predict --watch`: predict each picture that an imager writes into a folder, once, until stopped.

The folder is looked through every few seconds. A picture is taken when its size and modification time have stayed the
same for a while; one that cannot be decoded is tried again when it changes. A picture that is written anew under its
name is predicted anew. What was found lies in OUT/.watching, so a start goes on where the last one stopped.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crystal.data.images import SUFFIXES, UNREAD_SUFFIXES, ImageError, Page
from crystal.files import OutputName, alike, distinct_stem, files_below
from crystal.prediction.outputs import OutputFolder
from crystal.prediction.predict import PredictSummary, Signature, Tally, predict_into
from crystal.prediction.predictor import Predictor

INTERVAL = 2.0  # seconds between two looks at the folder
SETTLED = 2.0  # seconds for which a file has to stay as it is
BATCH = 16  # pictures after which tables and page are written


def signature_of(path: Path) -> Signature | None:
    """(size, modification time) of a file; None where it is gone."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def check_watched(folder: Path) -> None:
    """Raises ImageError where there is no such folder; it may be empty."""
    if not folder.is_dir():
        raise ImageError(f"{folder}: --watch needs a folder that exists; name the one that the imager fills")


class Arrivals:
    """Which pictures of a folder are new and complete.

    Args:
        folder: where the imager writes, at any depth.
        out: the folder of results, which may lie inside or around it; its overlays are left out.
        done: the signature of each file that was predicted, by its absolute path.
        clock: in seconds.
    """

    def __init__(
        self, folder: Path, out: Path, done: dict[str, Signature], clock: Callable[[], float] = time.monotonic
    ):
        self._folder, self._ours, self._clock = folder, (out / "overlays").resolve(), clock
        self._handled = dict(done)
        self._seen: dict[str, tuple[Signature, float]] = {}  # since when each file has been as it is

    def ready(self) -> dict[Path, Signature]:
        """The pictures that are new or changed and have stayed as they are for SETTLED seconds, by name."""
        now, found, seen = self._clock(), {}, {}
        for path in files_below(self._folder, lambda folder: folder.resolve() == self._ours):
            if path.suffix.lower() not in (*SUFFIXES, *UNREAD_SUFFIXES):
                continue
            key, state = str(path.absolute()), signature_of(path)
            if state is None or self._handled.get(key) == state:
                continue
            before = self._seen.get(key)
            since = before[1] if before and before[0] == state else now
            seen[key] = state, since
            if now - since >= SETTLED:
                found[path] = state
        self._seen = seen
        return found

    def handled(self, path: Path, state: Signature) -> None:
        """Not to be named again unless it changes: it is predicted, or cannot be read as it is."""
        self._handled[str(path.absolute())] = state


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that what is being done is finished; a second one interrupts."""
    event = threading.Event()

    def stop(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt("SIGTERM" if number == signal.SIGTERM else "")
        event.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch_folder(
    predictor: Predictor,
    watched: Path,
    out: Path,
    *,
    stop: threading.Event,
    settings: dict[str, Any],
    score_threshold: float = 0.5,
    labelme: bool = False,
    page: Page = "sharpest",
    said: Callable[[str], object] = lambda text: None,
    **more: Any,
) -> PredictSummary:
    """Predict the pictures of a folder as they come, until `stop` is set.

    Tables and page are replaced after every batch. Pictures are called by their path below the folder.

    Args:
        predictor: the model.
        watched: the folder; it may be empty.
        out: the folder to write to.
        stop: set from outside.
        settings: what must be the same for earlier results in `out` to be kept, by the option's name.
        score_threshold: as for `predict_folder`.
        labelme: the same.
        page: the same.
        said: called with a sentence after each batch, and once about each picture that cannot be read.
        **more: of `OutputFolder`: calibration, outside, write_page.

    Returns:
        The summary of this start; pictures that still cannot be read are in `failed`.

    Raises:
        OutputError: `out` cannot be written, holds results of other settings, or is being written to.
        ImageError: `watched` is no folder.
    """
    check_watched(watched)
    tally = Tally()
    with OutputFolder(
        out,
        classes=predictor.config.classes,
        score_threshold=score_threshold,
        labelme=labelme,
        resume=settings,
        **more,
    ) as folder:
        arrivals = Arrivals(watched, out, folder.signatures)
        if folder.signatures:
            folder.publish()  # the last start may have been killed before it could
        said(f"watching {watched}: pictures done so far: {len(folder.signatures)}; Ctrl-C stops")
        while not stop.is_set():
            batch = dict(list(arrivals.ready().items())[:BATCH])
            if not batch:
                stop.wait(INTERVAL)
                continue
            before = folder.done
            names = _named(batch, watched, folder.names)
            predict_into(folder, predictor, names, tally, page=page, signatures=batch, stop=stop.is_set)
            for path, state in batch.items():
                if folder.signatures.get(str(path.absolute())) == state or path in tally.failed:
                    arrivals.handled(path, state)
            for path in batch:
                if path in tally.failed:
                    said(f"cannot be read and is tried again when it changes: {tally.failed[path]}")
            if folder.done > before:
                folder.publish()
                said(f"pictures done: {len(folder.signatures)}, {folder.done - before} of them new")
    return tally.summary(folder)


def _named(batch: dict[Path, Signature], watched: Path, known: dict[str, OutputName]) -> dict[Path, OutputName]:
    """What each picture is called: as before, or by its path below the folder."""
    taken = {alike(name.stem) for name in known.values()}
    names = {}
    for path in batch:
        below = Path(os.path.relpath(path.absolute(), watched.absolute())).as_posix()
        name = known.get(str(path.absolute())) or OutputName(below, distinct_stem(path, taken))
        names[path] = name
    return names
