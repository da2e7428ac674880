"""RUN|PACKAGE on the command line: a run folder, `runs/latest`, or a package folder itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fulldeck.errors import BadInput

Target = Annotated[
    Path,
    typer.Argument(metavar="RUN|PACKAGE", help="A run folder (such as runs/latest) or a package folder."),
]


def package_folder(target: Path) -> Path:
    """The package in `target`. Raises BadInput if there is none, saying why."""
    for folder in (target, target / "package"):
        if (folder / "manifest.json").is_file():
            return folder
    if not target.is_dir():
        raise BadInput(f"{target} does not exist" if not target.exists() else f"{target} is not a folder")
    if (target / "result.json").is_file():
        raise BadInput(f"{target} has no package; add model_packaging to the recipe")
    if (target / "recipe.yaml").is_file():
        raise BadInput(f"{target} is not finished; go on with: fulldeck run RECIPE --resume")
    raise BadInput(f"{target} is neither a run nor a package: it has no package/ and no manifest.json")
