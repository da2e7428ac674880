"""TensorBoard: event files in RUN/tensorboard.

See them with: tensorboard --logdir runs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fulldeck.param import param
from fulldeck.trackers.tracker import Parameters, Point, TrackedRun, Tracker


class Tensorboard(Tracker):
    kind: ClassVar[str] = "tensorboard"

    folder: str | None = param(
        None, doc="Parent of the event files of each run; left out: RUN/tensorboard itself."
    )

    def open(self, folder: Path, parameters: Parameters, known: str | None) -> TrackedRun:
        place = folder / "tensorboard" if self.folder is None else Path(self.folder) / folder.name
        return _Events(place, parameters, begun=known is not None)


class _Events:
    _writer: Any

    def __init__(self, folder: Path, parameters: Parameters, *, begun: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.id = folder.name
        self._writer = SummaryWriter(str(folder))
        # The list of metrics is left out: TensorBoard then offers every scalar beside the parameters.
        _, start, self._end = hparams(dict(parameters), {})  # type: ignore[no-untyped-call]
        if not begun:
            self._writer.file_writer.add_summary(start)
            self._writer.flush()

    def log(self, points: Sequence[Point]) -> None:
        for step, figures in points:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, status: str, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value)
        if status == "finished":
            self._writer.file_writer.add_summary(self._end)
        self._writer.close()
