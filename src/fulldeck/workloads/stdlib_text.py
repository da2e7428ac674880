"""Real English on every machine: the docstrings of Python's standard library, and a small GPT."""

from __future__ import annotations

import ast
import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from fulldeck.data import Data
from fulldeck.errors import BadInput
from fulldeck.param import param
from fulldeck.sources.running_text import BETWEEN
from fulldeck.sources.token_workload import TokenWorkload
from fulldeck.workload import TrainingDefaults

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
"""Folders that are not the library itself."""
SHORTEST = 40
"""Characters of a docstring that is worth reading."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class StdlibText(TokenWorkload):
    """Docstrings, read from the source files: nothing is imported or run.

    Files come in an order drawn by a hash of their names, so that the held-out end is about every subject,
    and all of a file stays together. A docstring that occurs twice counts once. The text differs between
    versions of Python, which are noted.
    """

    kind: ClassVar[str] = "stdlib_text"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(
        epochs=2, batch_size=16, learning_rate=3e-3, weight_decay=0.1
    )

    characters: int = param(500_000, ge=10_000, doc="Most characters of text; there are about 1.5 million.")

    def load(self) -> Data:
        """Collect the docstrings. Raises BadInput where Python comes without its source files."""
        folder = Path(sysconfig.get_path("stdlib"))
        text = docstrings(folder, self.characters)
        if not text:
            raise BadInput(
                f"{folder} has no source files; name a text: workload: {{kind: language_model, path: book.txt}}"
            )
        notes = [f"text: {len(text):,} characters of docstrings of Python {platform.python_version()}"]
        return self.from_text({"train": text}, notes)


def docstrings(folder: Path, characters: int) -> str:
    """At most about `characters` of the different docstrings below `folder`; files are parsed, not run."""
    seen: dict[str, None] = {}
    size = 0
    for path in _files(folder):
        for text in _of_file(path):
            if len(text) >= SHORTEST and text not in seen:
                seen[text] = None
                size += len(text) + len(BETWEEN)
        if size >= characters:
            break
    return BETWEEN.join(seen)[:characters]


def _files(folder: Path) -> list[Path]:
    names = [path.relative_to(folder) for path in folder.rglob("*.py")]
    kept = [name for name in names if not LEFT_OUT.intersection(name.parts)]
    return [folder / n for n in sorted(kept, key=lambda n: hashlib.sha256(n.as_posix().encode()).digest())]


def _of_file(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # templates and files of another encoding
        return
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield text
