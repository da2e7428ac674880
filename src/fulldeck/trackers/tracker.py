"""A tracker: where, besides the run folder, the figures of a run are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from fulldeck.declared import Declared
from fulldeck.errors import extra

Point = tuple[int, Mapping[str, float]]
"""A step (optimizer steps done) and the figures at it, by name."""
Parameters = Mapping[str, str | int | float | bool]
"""The resolved recipe, flat: `train.epochs` to 3."""


class TrackedRun(Protocol):
    """One run, open in a tracker. Every method may raise whatever the tracker's library raises."""

    id: str
    """By which a resumed run finds it again."""

    def log(self, points: Sequence[Point]) -> None:
        """Write figures, by rising step, so that they are not lost if the process is killed now."""

    def finish(self, status: str, figures: Mapping[str, float]) -> None:
        """Close it as finished, failed or interrupted; `figures` are those of the whole run."""


class Tracker(Declared):
    """Base of the trackers: fields are the keys in a recipe's `trackers:`."""

    kind: ClassVar[str]
    """The name in a recipe, of the library's module and of the optional extra."""

    @classmethod
    def spoken_name(cls) -> str:
        return f"tracker {cls.kind}"

    def check(self) -> None:
        """Import the library. Raises BadInput, before the run starts, where it cannot be used."""
        extra(self.kind, self.kind)

    def open(self, folder: Path, parameters: Parameters, known: str | None) -> TrackedRun:
        """Begin a run named as `folder`, or go on with the one whose id is `known`."""
        raise NotImplementedError
