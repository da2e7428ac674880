"""`fulldeck run RECIPE`: from raw data to a verified server, with live progress."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.completion import recipe_names
from fulldeck.cli.output import Interrupted, Json, LogJson, Quiet, write_json
from fulldeck.cli.several import launched
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
    nproc: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train in so many processes on this machine; left out: one, or one for each of gpu_ids.",
        ),
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="With several processes: how often to go on if one of them is lost.")
    ] = 3,
    json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run a recipe, from raw data to a verified server.

    With --quiet one line is written at the end: the run's folder and its metrics.
    """
    from fulldeck.cli.launching import launch, processes
    from fulldeck.pipeline.run import run
    from fulldeck.watchers.progress import LastingConsole, Progress

    if launched() is None:
        number, settings = processes(recipe, settings, nproc)
        if number > 1:
            flags = {"--resume": resume, "--json": json, "--quiet": quiet, "--log-json": log_json}
            words = ["run", recipe, *_flags(settings, out), *(flag for flag, given in flags.items() if given)]
            raise typer.Exit(launch(words, number, restarts, tell=lambda text: typer.echo(text, err=True)))
    collect()
    progress = Progress(LastingConsole(stderr=json, quiet=quiet or log_json, highlight=False, markup=False))
    try:
        result = run(recipe, settings=settings, out=out, resume=resume, watcher=progress)
    except KeyboardInterrupt as stop:
        given = launched() or nproc
        words = ["fulldeck", "run", recipe, *_flags(settings, out)]
        words += [] if given is None else ["--nproc", str(given)]
        how = shlex.join([*words, "--resume"])
        began = progress.folder is not None
        raise Interrupted(
            f"{str(stop) or 'interrupted'}; go on with: {how}"
            if began
            else "interrupted before the run began"
        ) from None
    if result["status"] == "assisted":
        return
    if json:
        write_json(result)
    else:
        from fulldeck.cli.summary import write_line, write_summary

        (write_line if quiet else write_summary)(result)


def _flags(settings: list[str], out: Path) -> list[str]:
    words = [word for item in settings for word in ("--set", item)]
    return words if out == Path("runs") else [*words, "--out", str(out)]
