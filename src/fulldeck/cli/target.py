"""RUN|PACKAGE on the command line: a run folder, `runs/latest`, or a package folder itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.completion import run_folders
from fulldeck.errors import BadInput

Target = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|PACKAGE",
        help="A run folder (such as runs/latest) or a package folder.",
        autocompletion=run_folders,
    ),
]


def package_folder(target: Path) -> Path:
    """The package in `target`. Raises BadInput if there is none, saying why."""
    for folder in (target, target / "package"):
        if (folder / "manifest.json").is_file():
            return folder
    if not target.is_dir():
        raise BadInput(f"{target} does not exist" if not target.exists() else f"{target} is not a folder")
    if (target / "recipe.yaml").is_file():
        raise BadInput(_without_package(target))
    raise BadInput(f"{target} is neither a run nor a package: it has no package/ and no manifest.json")


def _without_package(run: Path) -> str:
    """Why a run has no package."""
    try:
        result = json.loads((run / "result.json").read_bytes())
    except (OSError, ValueError):
        result = {}
    status = result.get("status")
    if status == "finished":
        return f"{run} has no package; add model_packaging to the recipe"
    if status == "failed":
        return f"{run} failed, so it has no package: {result.get('error', 'it does not say why')}"
    said = "was interrupted" if status == "interrupted" else "is not finished"
    return f"{run} {said}; go on with: fulldeck run RECIPE --resume"
