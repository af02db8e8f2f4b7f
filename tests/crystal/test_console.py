"""What a log file sees of a bar."""

import pytest

from crystal import console


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "console", console.Console(force_terminal=False, soft_wrap=True))
    return now


def test_lines_come_every_few_seconds_with_time_left_and_the_end_once(clock, capsys):
    with console.one_bar("training", 100) as bar:
        for done in range(1, 101):
            clock[0] += 1.0
            bar(done, f"loss {done}")
        bar(100, "again")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training: 0/100"
    assert lines[1] == "training: 5/100, 5 s loss 5"
    assert lines[2] == "training: 10/100, 10 s, 90 s left loss 10"
    assert lines[-1] == "training: 100/100, 100 s loss 100"
    assert len(lines) == 21


def test_brackets_in_names_are_no_markup(capsys):
    for name in ("plate[a1]/bad[red].png", "x[/b].png", "tab\t.png"):
        console.console.print(f"skipped: {name}")
        with console.one_bar(name, 1) as bar:
            bar(1, name)
    out = capsys.readouterr().out
    assert "skipped: plate[a1]/bad[red].png\nplate[a1]/bad[red].png: 0/1" in out
    assert "x[/b].png: 1/1, 0 s x[/b].png" in out
    assert "tab\\t.png: 1/1, 0 s tab\\t.png" in out
