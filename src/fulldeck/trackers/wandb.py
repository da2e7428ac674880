"""Weights & Biases: offline files in RUN/wandb, or its server where the recipe says `mode: online`.

Send offline files later with: wandb sync RUN/wandb/offline-run-*
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from fulldeck.errors import BadInput
from fulldeck.param import param
from fulldeck.trackers.tracker import Parameters, Point, TrackedRun, Tracker

FLUSH_SECONDS = 0.5
"""What kill -9 may lose of the newest figures; wandb's own choice is 15."""


class Wandb(Tracker):
    kind: ClassVar[str] = "wandb"

    project: str = param("fulldeck", doc="Project that the run belongs to.")
    entity: str | None = param(None, doc="User or team that owns the project; left out: your own.")
    mode: Literal["offline", "online"] = param("offline", doc="Whether anything goes over the network.")

    def check(self) -> None:
        # wandb reports its own errors over the network otherwise.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        super().check()
        if self.mode == "online":
            import wandb

            if wandb.setup().settings.api_key is None and wandb.api.api_key is None:
                raise BadInput(
                    "tracker wandb has no API key for mode: online; type wandb login, set WANDB_API_KEY, or "
                    "write mode: offline"
                )

    def open(self, folder: Path, parameters: Parameters, known: str | None) -> TrackedRun:
        import wandb

        # Its own words on the screen would run through the live view, and the code stays at home.
        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
        )
        return _Run(
            wandb.init(
                project=self.project,
                entity=self.entity,
                mode=self.mode,
                dir=str(folder.resolve()),
                id=known or secrets.token_hex(6),
                name=folder.name,
                config=dict(parameters),
                resume="allow" if self.mode == "online" and known else None,
                reinit="create_new",
                settings=settings,
            )
        )


class _Run:
    def __init__(self, run: Any) -> None:
        self.id: str = run.id
        self._run = run

    def log(self, points: Sequence[Point]) -> None:
        for step, figures in points:
            self._run.log(dict(figures), step=step, commit=True)

    def finish(self, status: str, figures: Mapping[str, float]) -> None:
        self._run.summary.update(figures)
        self._run.finish(exit_code=0 if status == "finished" else 1)
