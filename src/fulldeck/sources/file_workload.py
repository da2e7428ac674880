"""What all adapters for a user's own files have in common."""

from __future__ import annotations

import re
from pathlib import Path

from fulldeck.param import param
from fulldeck.workload import Workload


class FileWorkload(Workload):
    """A workload on a file or folder of the user's."""

    path: str = param(..., doc="The file or folder.")
    split: str | None = param(None, doc="Column that says train, validation (or dev) or test.")
    group: str | None = param(None, doc="Column whose equal values must not be torn apart by a split.")
    time: str | None = param(None, doc="Column that a split by time goes by.")
    max_train: int | None = param(None, ge=1, doc="Most training examples; a fixed random choice of them.")

    @property
    def name(self) -> str:
        """The stem of the file, with what a URL does not take replaced by `_`."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(self.path).resolve().stem) or self.kind
