"""`fulldeck run RECIPE`: from raw data to a verified server, with live progress."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.completion import recipe_names
from fulldeck.cli.output import Interrupted, Json, LogJson, Quiet, write_json
from fulldeck.logs import collect

EXAMPLE = "fulldeck run digits --set train.epochs=3"

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, or the name of a shipped recipe such as digits.",
        autocompletion=recipe_names,
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the recipe, such as train.epochs=3; may be given several times.",
    ),
]


def command(
    recipe: Recipe,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest unfinished run of this recipe.")
    ] = False,
    settings: Settings = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="The parent of run folders.")] = Path("runs"),
    json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run a recipe, from raw data to a verified server.

    With --quiet one line is written at the end: the run's folder and its metrics.
    """
    from fulldeck.pipeline import run
    from fulldeck.progress import LastingConsole, Progress

    collect()
    progress = Progress(LastingConsole(stderr=json, quiet=quiet or log_json, highlight=False, markup=False))
    try:
        result = run(recipe, settings=settings, out=out, resume=resume, watcher=progress)
    except KeyboardInterrupt as stop:
        words = ["fulldeck", "run", recipe, *(word for item in settings for word in ("--set", item))]
        words += ["--out", str(out)] if out != Path("runs") else []
        how = shlex.join([*words, "--resume"])
        began = progress.folder is not None
        raise Interrupted(
            f"{str(stop) or 'interrupted'}; go on with: {how}"
            if began
            else "interrupted before the run began"
        ) from None
    if json:
        write_json(result)
    else:
        from fulldeck.cli.summary import write_line, write_summary

        (write_line if quiet else write_summary)(result)
