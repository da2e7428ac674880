"""A user's own text: a file or a folder, and a small GPT that learns to continue it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from fulldeck.data import Data
from fulldeck.param import param
from fulldeck.sources.running_text import read_running_text
from fulldeck.sources.token_workload import TokenWorkload


class LanguageModel(TokenWorkload):
    """A text file in UTF-8, a folder of .txt and .md files, or CSV or parquet with a column of texts."""

    kind: ClassVar[str] = "language_model"

    path: str = param(..., doc="The file or folder.")
    text: str | None = param(None, doc="Column of texts in CSV or parquet; left out: by its name.")

    @property
    def name(self) -> str:
        """The stem of the file, with what a URL does not take replaced by `_`."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(self.path).resolve().stem) or self.kind

    def load(self) -> Data:
        """Read the text and cut it into blocks of tokens; its end is held out, where no split is given."""
        notes: list[str] = []
        return self.from_text(read_running_text(self.path, self.text, notes), notes)
