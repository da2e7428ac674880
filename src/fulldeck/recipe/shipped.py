"""The recipes that come with fulldeck, by name."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
SHIPPED = (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes")
"""Where they lie: in an installed package, and in a checkout."""


def shipped_recipes() -> dict[str, Path]:
    """Name to file."""
    return {
        file.stem: file for folder in SHIPPED if folder.is_dir() for file in sorted(folder.glob("*.yaml"))
    }
