"""Progress: it fits a terminal and leaves it in order, and is plain lines everywhere else."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import fulldeck as fd
from fulldeck.watchers import progress

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
RECIPE = """\
workload: breast_cancer
train: {epochs: 2, threads: 1}
instructions: [leakage_safe_splitting, lr_scheduler, weight_averaging]
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def watched(console: Console, epochs: int = 3) -> None:
    """A short training under `console`, told as the pipeline tells it."""
    torch.manual_seed(0)
    batches = [(torch.randn(8, 4), torch.randint(0, 2, (8,))) for _ in range(5)]
    watcher = fd.Progress(console)
    loop = fd.TrainingLoop(
        nn.Linear(4, 2), batches, nn.functional.cross_entropy, epochs=epochs, record=watcher.recorded
    )
    if watcher._live is not None:
        watcher._live.start()
    watcher.stage("load")
    watcher.training(loop)
    loop.fit()
    watcher.note("something to know")
    watcher.finished({})


@pytest.mark.parametrize("width", [40, 100])
def test_a_terminal_sees_figures_that_fit(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr(progress, "WORTH_A_LINE", 0.0)
    stream = Terminal()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    drawn: list[str] = []
    update = progress.Live.update
    monkeypatch.setattr(
        progress.Live,
        "update",
        lambda self, shown: (drawn.append(_text(shown, width)), update(self, shown))[1],
    )
    watched(console)
    figures = [text for text in drawn if "samples/s" in text]
    assert any("epoch 3/3" in text for text in figures)
    assert any("loss 0." in text and "left" in text and "memory" in text for text in figures)
    assert max(len(line) for text in figures for line in text.splitlines()) <= width
    written = CONTROLS.sub("", stream.getvalue())
    assert "something to know" in written
    assert "train  " in written


def _text(shown: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(shown)
    return console.export_text()


def test_a_pipe_sees_one_line_an_epoch() -> None:
    stream = io.StringIO()
    watched(Console(file=stream, width=80, highlight=False))
    lines = stream.getvalue().splitlines()
    assert [line.split()[:2] for line in lines if "epoch" in line] == [["epoch", str(n)] for n in (1, 2, 3)]


def test_a_note_fits_a_narrow_terminal_and_stays_one_line_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    note = "validation and test taken from train, stratified: train 1258, validation 286, test 253"
    for stream, lines in ((Terminal(), 3), (io.StringIO(), 1)):
        console = Console(file=stream, width=40, color_system=None, legacy_windows=False)
        fd.Progress(console).note(note)
        assert len(stream.getvalue().splitlines()) == lines
        assert max(map(len, stream.getvalue().splitlines())) <= (40 if lines > 1 else len(note) + 2)


def test_an_interrupted_run_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WORTH_A_LINE", 0.0)
    stream = io.StringIO()
    watcher = fd.Progress(Console(file=stream, width=80, highlight=False))
    watcher.stage("train")
    watcher.ended("interrupted", "interrupted by the user")
    assert stream.getvalue().startswith("train interrupted  ")


def test_a_pipe_sees_a_long_epoch_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SHARE", 0.2)
    stream = io.StringIO()
    watched(Console(file=stream, width=80, highlight=False))
    said = [line.split("  ") for line in stream.getvalue().splitlines() if "samples/s" in line]
    assert [parts[1:3] for parts in said] == [[f"epoch {n}", f"step {5 * n - 2}/15"] for n in (1, 2, 3)]
    assert all(
        re.fullmatch(r"loss 0\.\d{4}  [\d,]+ samples/s  [\d.]+ s left", "  ".join(p[3:])) for p in said
    )


@pytest.mark.parametrize(("variable", "value"), [("FORCE_COLOR", "1"), ("CI", "true")])
def test_nothing_moves_where_a_log_is_kept(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    stream = Terminal() if variable == "CI" else io.StringIO()
    watched(Console(file=stream, width=80, highlight=False))
    assert not CONTROLS.search(COLOURS.sub("", stream.getvalue()))
    assert "epoch 3" in stream.getvalue()


def on_a_terminal(folder: Path, columns: int, **environment: str) -> str:
    """What `fulldeck run` writes to a real terminal of that width."""
    (folder / "tiny.yaml").write_text(RECIPE)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fulldeck", "run", "tiny.yaml"],
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=clean | {"TERM": "xterm-256color"} | environment,
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux says EIO when the other side has gone
            break
        if not part:
            break
        seen += part
    os.close(master)
    assert process.wait() == 0
    return seen.decode()


def test_forty_columns_without_colour(tmp_path: Path) -> None:
    seen = on_a_terminal(tmp_path, 40, NO_COLOR="1")
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-79]|9[0-7]|38;[0-9;]+)m", seen), "a colour"
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is back"
    summary = CONTROLS.sub("", seen[seen.rindex("\x1b[?25h") :]).replace("\r", "")
    prose = [line for line in summary.splitlines() if not re.match(r"report: |fulldeck ", line)]
    assert max(map(len, prose)) <= 40
    assert "17  weight_averaging" in summary


@pytest.mark.slow
def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    seen = on_a_terminal(tmp_path, 80, TERM="dumb")
    assert "\x1b" not in seen
    assert re.search(r"^  epoch 2  loss 0\.", seen, re.MULTILINE)
