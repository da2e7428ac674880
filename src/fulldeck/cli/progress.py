"""Live progress of a run: one line of bars and figures on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fulldeck.cli.output import duration, size
from fulldeck.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.batch import Batch
    from fulldeck.planner import Plan
    from fulldeck.training_loop import TrainingLoop

REDRAW_SECONDS = 0.25
"""Reading the loss waits for an accelerator, so it is done this seldom."""
WORTH_A_LINE = 0.1
"""Seconds from which a finished part of the work is told; attaching an instruction takes none."""


class Progress(Watcher):
    """Shows a run on `console`. Use it as a context manager, so that the terminal is left in order."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.folder: Path | None = None
        """The run's folder, once it has begun."""
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True) if _animated(console) else None
        )
        self._stage: str | None = None
        self._began = 0.0
        self._meter: _Meter | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end_stage(failed=error[0] is not None)
        if self._live is not None:
            self._live.stop()

    def started(self, plan: Plan, folder: Path) -> None:
        self.folder = folder
        self.console.print(f"{plan.recipe.name} in {folder}", style="bold", soft_wrap=True)

    def stage(self, title: str) -> None:
        self._end_stage()
        self._stage, self._began = title, time.perf_counter()
        if self._live is not None:
            self._live.update(Spinner("dots", Text(title)))

    def note(self, text: str) -> None:
        self.console.print(f"  {text}", style="yellow", soft_wrap=True)

    def training(self, loop: TrainingLoop) -> None:
        self.stage("train")
        if self._live is not None:
            self._meter = _Meter(loop, self._live)
            loop.on("batch_start", self._meter.step)

    def recorded(self, values: Mapping[str, Any]) -> None:
        line = _epoch_line(values)
        if self._meter is not None:
            self._meter.epoch = line
        else:
            self.console.print(f"  {line}", soft_wrap=True)

    def finished(self, result: Mapping[str, Any]) -> None:
        self._end_stage()

    def _end_stage(self, *, failed: bool = False) -> None:
        if self._stage is None:
            return
        seconds = time.perf_counter() - self._began
        if seconds >= WORTH_A_LINE:
            last = f"  {self._meter.epoch}" if self._meter is not None and self._stage == "train" else ""
            style = "red" if failed else "green"
            line = Text.assemble(
                ("failed " if failed else "", style), (self._stage, style), f"  {duration(seconds)}{last}"
            )
            self.console.print(line)
        self._stage = None


class _Meter:
    """What the training loop's steps look like, drawn at most every REDRAW_SECONDS."""

    def __init__(self, loop: TrainingLoop, live: Live) -> None:
        self.loop = loop
        self.live = live
        self.epoch = ""
        self.process = psutil.Process()
        self.began = self.drawn = time.perf_counter()
        self.first_step: int | None = None
        self.samples = self.samples_drawn = 0

    def step(self, batch: Batch) -> None:
        """Handler of *batch_start*: count, and now and then draw."""
        self.samples += len(batch.targets)
        now = time.perf_counter()
        if self.first_step is None:
            self.first_step, self.began = self.loop.step, now
        if now - self.drawn < REDRAW_SECONDS:
            return
        rate = (self.samples - self.samples_drawn) / (now - self.drawn)
        self.drawn, self.samples_drawn = now, self.samples
        self.live.update(self._drawing(rate, now))

    def _drawing(self, rate: float, now: float) -> Table:
        loop = self.loop
        done = loop.step - (self.first_step or 0)
        left = (loop.total_steps - loop.step) * (now - self.began) / done if done else None
        loss = "" if loop.last_loss is None else f"loss {loop.last_loss.item():.4f}  "
        figures = [
            f"epoch {loop.epoch + 1}/{loop.epochs}  {loss}{rate:,.0f} samples/s",
            f"{duration(left)} left" if left is not None else "",
            f"memory {size(self._memory())}",
        ]
        bar = ProgressBar(total=max(loop.total_steps, 1), completed=loop.step, width=40)
        drawing = Table.grid()
        drawing.add_row(bar)
        drawing.add_row(Text("  ".join(part for part in figures if part)))
        drawing.add_row(Text(self.epoch, style="dim"))
        return drawing

    def _memory(self) -> int:
        if self.loop.device.type == "cpu":
            return int(self.process.memory_info().rss)
        import torch

        return int(torch.accelerator.memory_allocated(self.loop.device))


def _epoch_line(values: Mapping[str, Any]) -> str:
    figures = {
        name: value
        for name, value in values.items()
        if isinstance(value, (int, float)) and name not in _COUNTERS
    }
    said = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items())
    return f"epoch {values['epoch'] + 1}  {said}"


_COUNTERS = ("epoch", "step", "lr")


def _animated(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal
