"""What a search has tried, kept as lines of JSON that are only ever added to, so that a killed search goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fulldeck.errors import BadInput
from fulldeck.files import plain, refusing_disk

SCHEMA = 1
Figures = dict[str, float]


@dataclass
class Training:
    """One training by content; trials that differ only in what happens after it share it.

    `rungs` are the figures at each share of the training that it has reached, the last one being its end.
    """

    key: str
    rungs: list[Figures] = field(default_factory=list)
    hopeless: str | None = None
    """Why it is not worth going on with."""


@dataclass
class Trial:
    """One combination of decisions. `figures` are there once it has been carried out to its end."""

    number: int
    values: dict[str, Any]
    key: str
    origin: str
    """Where it comes from, in words."""
    figures: Figures | None = None
    error: str | None = None
    seconds: float = 0.0
    finals: dict[int, Figures] = field(default_factory=dict)
    """Measured again, by seed."""

    @property
    def open(self) -> bool:
        """Whether it has neither finished nor failed."""
        return self.figures is None and self.error is None


class History:
    """All trials and trainings. With a `journal` they are read from it, and what is added is written to it.

    Raises BadInput if the journal belongs to another `content` (a hash of the recipe) or is damaged.
    """

    def __init__(self, content: str = "", journal: Path | None = None) -> None:
        self.content = content
        self.journal = journal
        self.trials: list[Trial] = []
        self.trainings: dict[str, Training] = {}
        self.facts: dict[str, Any] = {}
        """What the recipe as it is told about itself: the rungs, its figures' names, what it is judged on."""
        self.elapsed = 0.0
        """Seconds that the search had taken when the last line was written."""
        if journal is not None and journal.is_file():
            self._read(journal)
        else:
            self._write({"schema": SCHEMA, "content": content})

    @property
    def baseline(self) -> Trial | None:
        """The recipe as it is."""
        return self.trials[0] if self.trials else None

    @property
    def finished(self) -> list[Trial]:
        """Trials that were carried out to their end."""
        return [one for one in self.trials if one.figures is not None]

    def level(self, key: str) -> int:
        """How many rungs a training has reached."""
        return len(self.trainings[key].rungs) if key in self.trainings else 0

    def add(self, values: Mapping[str, Any], key: str, origin: str) -> Trial:
        """A new trial."""
        self._do({"trial": len(self.trials), "values": dict(values), "key": key, "origin": origin})
        return self.trials[-1]

    def tell(self, **facts: Any) -> None:
        """Keep what is known about the recipe as it is."""
        self._do({"facts": facts})

    def reached(self, key: str, figures: Mapping[str, float]) -> None:
        """A training has reached its next rung."""
        self._do({"training": key, "figures": dict(figures)})

    def give_up(self, key: str, reason: str) -> None:
        """A training is hopeless."""
        self._do({"hopeless": key, "reason": reason})

    def finish(self, number: int, figures: Mapping[str, float], seconds: float) -> None:
        """A trial has come to its end."""
        self._do({"finished": number, "figures": dict(figures), "seconds": seconds})

    def fail(self, number: int, error: str) -> None:
        """A trial cannot be carried out."""
        self._do({"failed": number, "error": error})

    def measure(self, number: int, seed: int, figures: Mapping[str, float]) -> None:
        """A finalist was carried out again with another seed."""
        self._do({"final": number, "seed": seed, "figures": dict(figures)})

    def _do(self, event: dict[str, Any]) -> None:
        self._write(event)
        self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        if "trial" in event:
            key = event["key"]
            self.trials.append(Trial(event["trial"], event["values"], key, event["origin"]))
            self.trainings.setdefault(key, Training(key))
        elif "facts" in event:
            self.facts |= event["facts"]
        elif "training" in event:
            self.trainings[event["training"]].rungs.append(event["figures"])
        elif "hopeless" in event:
            self.trainings[event["hopeless"]].hopeless = event["reason"]
        elif "finished" in event:
            trial = self.trials[event["finished"]]
            trial.figures, trial.seconds = event["figures"], event["seconds"]
        elif "failed" in event:
            self.trials[event["failed"]].error = event["error"]
        elif "final" in event:
            self.trials[event["final"]].finals[event["seed"]] = event["figures"]

    def _write(self, event: dict[str, Any]) -> None:
        if self.journal is None:
            return
        line = json.dumps(event | {"elapsed": round(self.elapsed, 2)}, default=plain) + "\n"
        with refusing_disk(self.journal), self.journal.open("a") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, journal: Path) -> None:
        text = journal.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            # The process was killed while it wrote its last line.
            os.truncate(journal, len(whole.encode()))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                event = json.loads(line)
                if number == 1:
                    found = event["schema"], event["content"]
                else:
                    self._apply(event)
                self.elapsed = event["elapsed"]
            except (ValueError, KeyError, IndexError, TypeError):
                raise BadInput(
                    "the study file is damaged; start a search without --resume", f"{journal}:{number}"
                ) from None
            if number == 1 and found != (SCHEMA, self.content):
                raise BadInput(
                    f"{journal} is the study of another recipe or goal; start a search without --resume"
                )
        if not whole:
            self._write({"schema": SCHEMA, "content": self.content})
