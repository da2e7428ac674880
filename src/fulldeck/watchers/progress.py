"""Progress of a run: bars and figures on a terminal, plain lines in a pipe, in CI and in a notebook."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fulldeck.figures import duration, size
from fulldeck.watchers.pace import Pace, Reading
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.planner import Plan
    from fulldeck.training.loop import TrainingLoop

REDRAW_SECONDS = 0.25
LINE_SECONDS, LINE_SHARE = 10.0, 0.1
"""A plain line is written after these seconds and this share of all steps, whichever is later."""
WORTH_A_LINE = 0.1
"""Seconds from which a finished part of the work is told; attaching an instruction takes none."""


class LastingConsole(Console):
    """A console whose reader may leave, as `| head` does: the work goes on, and nothing more is written."""

    def on_broken_pipe(self) -> None:
        """Send what is still to come nowhere; rich itself would end the process."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


class Progress(Watcher):
    """Shows a run on `console`; left out: standard output, live only where that is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = _console() if console is None else console
        self.folder: Path | None = None
        """The run's folder, once it has begun."""
        self._live = (
            Live(console=self.console, refresh_per_second=4, transient=True)
            if _animated(self.console)
            else None
        )
        self._stage: str | None = None
        self._began = 0.0
        self._pace: Pace | None = None
        self._epoch = ""
        self._process = psutil.Process()

    def started(self, plan: Plan, folder: Path) -> None:
        self.folder = folder
        self.console.print(f"{plan.recipe.name} in {folder}", style="bold", soft_wrap=True)
        if self._live is not None:
            self._live.start()

    def stage(self, title: str) -> None:
        self._end_stage()
        self._stage, self._began = title, time.perf_counter()
        if self._live is not None:
            self._live.update(Spinner("dots", Text(title)))

    def note(self, text: str) -> None:
        self._line(text, "yellow")

    def training(self, loop: TrainingLoop) -> None:
        self.stage("train")
        _before_first_batch(loop, lambda: self._resumed(loop))
        if self._live is not None:
            live = self._live
            Pace(loop, lambda reading: live.update(self._drawing(loop, reading)), seconds=REDRAW_SECONDS)
        else:
            self._pace = Pace(loop, self._say, seconds=LINE_SECONDS, share=LINE_SHARE)

    def recorded(self, values: Mapping[str, Any]) -> None:
        self._epoch = _epoch_line(values)
        if self._live is None:
            self._line(self._epoch)
        if self._pace is not None:
            self._pace.reset()

    def finished(self, result: Mapping[str, Any]) -> None:
        self._end_stage()
        self._stop()

    def ended(self, status: str, error: str) -> None:
        self._end_stage(status)
        self._stop()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _end_stage(self, status: str = "") -> None:
        if self._stage is None:
            return
        seconds = time.perf_counter() - self._began
        if seconds >= WORTH_A_LINE:
            last = f"  {self._epoch}" if self._live is not None and self._stage == "train" else ""
            style = "red" if status == "failed" else "yellow" if status else "green"
            line = Text.assemble((f"{self._stage} {status}".strip(), style), f"  {duration(seconds)}{last}")
            self.console.print(line)
        self._stage = None

    def _say(self, reading: Reading) -> None:
        self._line(f"epoch {reading.epoch + 1}  {reading}")

    def _resumed(self, loop: TrainingLoop) -> None:
        if loop.step:
            place = f"after epoch {loop.epoch}" if loop.epoch else "in epoch 1"
            self._line(f"resumed {place} (step {loop.step:,} of {loop.total_steps:,})")

    def _line(self, text: str, style: str | None = None) -> None:
        """Indented, and wrapped where there are columns to fit; in a log it stays one line."""
        if self.console.is_terminal or "COLUMNS" in os.environ:
            text = "\n".join(
                textwrap.wrap(
                    text,
                    max(self.console.width - 2, 20),
                    subsequent_indent="  ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
        self.console.print(textwrap.indent(text, "  "), style=style, soft_wrap=True)

    def _drawing(self, loop: TrainingLoop, reading: Reading) -> Table:
        drawing = Table.grid()
        drawing.add_row(ProgressBar(total=max(reading.steps, 1), completed=reading.step, width=40))
        figures = f"epoch {reading.epoch + 1}/{loop.epochs}  {reading}  memory {size(self._memory(loop))}"
        drawing.add_row(Text(figures))
        drawing.add_row(Text(self._epoch, style="dim"))
        return drawing

    def _memory(self, loop: TrainingLoop) -> int:
        if loop.device.type == "cpu":
            return int(self._process.memory_info().rss)
        import torch

        return int(torch.accelerator.memory_allocated(loop.device))


def _before_first_batch(loop: TrainingLoop, tell: Callable[[], None]) -> None:
    """Call `tell` once, when what a checkpoint holds has been restored."""
    waiting = [tell]
    loop.on("batch_start", lambda batch: waiting.pop()() if waiting else None)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def default_watcher() -> Watcher:
    """What follows a run that was given no watcher: plain lines in a notebook, elsewhere nothing."""
    return Progress() if in_notebook() else Watcher()


def _console() -> Console:
    # A kernel sets FORCE_COLOR for its children, and has no terminal all the same.
    return LastingConsole(
        highlight=False, markup=False, force_jupyter=False, force_terminal=False if in_notebook() else None
    )


def _animated(console: Console) -> bool:
    """FORCE_COLOR wants colours, which is no terminal; and CI keeps a log even where it has a terminal."""
    return (
        console.is_terminal
        and not console.is_dumb_terminal
        and console.file.isatty()
        and "CI" not in os.environ
    )


def _epoch_line(values: Mapping[str, Any]) -> str:
    figures = {
        name: value
        for name, value in values.items()
        if isinstance(value, (int, float)) and name not in _COUNTERS
    }
    said = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items())
    return f"epoch {values['epoch'] + 1}  {said}"


_COUNTERS = ("epoch", "step", "lr", "losses_every")
