"""Readings of a training: how far it got since the line before, and what its process and the devices do."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import psutil

from fulldeck.monitoring.devices import Device, Processor, cores
from fulldeck.monitoring.gpus import Gpus
from fulldeck.monitoring.training import Follower, Moment

SILENT_SECONDS, SILENT_STEPS = 2.5, 2.0
"""Time, and steps' worth of time, without a line after which the training's figures are no longer shown."""


@dataclass(frozen=True)
class TrainingReading:
    """One look at a training; None is what is not known. Rates are a second."""

    at: float
    samples: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    """Seconds from one batch to the next."""
    loss: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the live page takes it."""
        return asdict(self)


class TrainingMeter:
    """Follows the run in a folder. `last` is the newest line, `devices` what was seen of them then."""

    def __init__(self, run: Path) -> None:
        self._follower = Follower(run)
        self._processor = Processor()
        self._gpus = Gpus()
        self._met: int | None = None
        self.last: Moment | None = None
        self.devices: tuple[Device, ...] = ()

    @property
    def running(self) -> bool:
        """Whether the run's process is at work."""
        return self.last is not None and self.last.status == "running" and self.last.alive()

    def look(self, now: float) -> list[TrainingReading]:
        """What there is to tell since the last call; the newest of it has the devices."""
        known = [self.last, *self._follower.read()]
        self.last = known[-1]
        self.devices = self._read(*known[-2:]) if self.running else ()
        found = [
            _reading(before, moment)
            for before, moment in pairwise(known)
            if moment is not None and moment.stage == "train" and moment.done
        ]
        if found:
            return [*found[:-1], replace(found[-1], devices=self.devices)]
        if self.last is None or not self.running:
            return []
        silent = now - self.last.at > max(SILENT_SECONDS, SILENT_STEPS * (self.last.p50 or 0))
        return [TrainingReading(now, devices=self.devices)] if silent else []

    def _read(self, before: Moment | None, moment: Moment | None = None) -> tuple[Device, ...]:
        """Nothing of a run on another host, whose processes have other numbers."""
        moment = moment or before
        if moment is not None and moment.here():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(moment.process)
                processes = [one.pid for one in (process, *process.children(recursive=True))]
                moved = _rate(before, moment, "done") if moment.moved else None
                estimate = None if moved is None or moment.moved is None else moved * moment.moved
                cpu = self._processor.read(processes, cores(), estimate=estimate)
                if self._met == moment.process:
                    return (cpu, *self._gpus.read())
                # What it has done since its start says nothing of the last second.
                self._met = moment.process
        return ()


def _reading(before: Moment | None, moment: Moment) -> TrainingReading:
    return TrainingReading(
        at=moment.at,
        samples=_rate(before, moment, "samples"),
        p50=moment.p50,
        p90=moment.p90,
        p99=moment.p99,
        loss=moment.loss,
        validation=dict(moment.validation),
    )


def _rate(before: Moment | None, moment: Moment, total: Literal["samples", "done"]) -> float | None:
    """A second, since the line before; None where that is of another process."""
    if before is None or (before.process, before.born) != (moment.process, moment.born):
        return None
    seconds = moment.at - before.at
    grown: int = getattr(moment, total) - getattr(before, total)
    return grown / seconds if seconds > 0 else None
