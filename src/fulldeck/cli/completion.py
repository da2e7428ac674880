"""What the shell completes: instructions, recipes, runs. It answers at each tab, so nothing heavy is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fulldeck.catalogue import catalogue
from fulldeck.recipe.shipped import shipped_recipes

MARKS = ("result.json", "recipe.yaml", "manifest.json")
"""One of these files makes a folder a run or a package."""


def instruction_names(incomplete: str) -> list[tuple[str, str]]:
    """Names of instructions, with what each does."""
    return [(entry.name, entry.title) for entry in catalogue() if entry.name.startswith(incomplete)]


def stage_names(incomplete: str) -> list[str]:
    """Stages that instructions have."""
    stages = dict.fromkeys(entry.stage for entry in catalogue())
    return [stage for stage in stages if stage.startswith(incomplete)]


def recipe_names(incomplete: str) -> list[str]:
    """Shipped recipes, then YAML files and the folders that may hold some."""
    shipped = [name for name in shipped_recipes() if name.startswith(incomplete)]
    files = [
        path for path in _beginning_with(incomplete) if path.is_dir() or path.suffix in (".yaml", ".yml")
    ]
    return shipped + [_word(path) for path in files]


def run_folders(incomplete: str) -> list[str]:
    """Run and package folders, and the folders that may hold some; the newest run first."""
    folders = [path for path in _beginning_with(incomplete) if path.is_dir()]
    runs = sorted((path for path in folders if _is_run(path)), reverse=True)
    others = [path for path in folders if not _is_run(path) and not path.name.startswith(".")]
    # runs/ with a slash is entered by the next tab; latest stands before all names that begin with a year.
    return [str(path) for path in runs] + [_word(path) for path in others]


def _beginning_with(incomplete: str) -> Iterator[Path]:
    folder, _, start = incomplete.rpartition("/")
    here = Path(folder or ("/" if incomplete.startswith("/") else "."))
    if here.is_dir():
        yield from sorted(path for path in here.iterdir() if path.name.startswith(start))


def _is_run(path: Path) -> bool:
    return any((path / mark).is_file() for mark in MARKS)


def _word(path: Path) -> str:
    return f"{path}/" if path.is_dir() else str(path)
