"""Live progress on a terminal: it fits, it ends clean, and it reads the loss seldom."""

import io
import re

import pytest
import torch
from rich.console import Console
from torch import nn

import fulldeck as fd
from fulldeck.cli import progress
from fulldeck.cli.progress import Progress


def watched(console: Console, epochs: int = 3) -> None:
    """A short training under `console`."""
    torch.manual_seed(0)
    batches = [(torch.randn(8, 4), torch.randint(0, 2, (8,))) for _ in range(5)]
    with Progress(console) as watcher:
        loop = fd.TrainingLoop(
            nn.Linear(4, 2), batches, nn.functional.cross_entropy, epochs=epochs, record=watcher.recorded
        )
        watcher.stage("load")
        watcher.training(loop)
        loop.fit()
        watcher.note("something to know")


@pytest.mark.parametrize("width", [40, 100])
def test_a_terminal_sees_figures_that_fit(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr(progress, "WORTH_A_LINE", 0.0)
    stream = io.StringIO()
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
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "something to know" in written
    assert "train  " in written


def _text(shown: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(shown)
    return console.export_text()


def test_a_pipe_sees_one_line_an_epoch() -> None:
    stream = io.StringIO()
    watched(Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert [line.split()[:2] for line in lines if "epoch" in line] == [["epoch", str(n)] for n in (1, 2, 3)]


def test_steps_are_not_watched_in_a_pipe() -> None:
    with Progress(Console(file=io.StringIO())) as watcher:
        loop = fd.TrainingLoop(nn.Linear(4, 2), [], nn.functional.cross_entropy)
        watcher.training(loop)
        assert loop._hooks.handlers["batch_start"] == []
