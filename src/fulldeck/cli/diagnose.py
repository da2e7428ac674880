"""`fulldeck diagnose RECIPE`: where the time and memory of a run go, and what to do about it."""

from __future__ import annotations

import shlex
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fulldeck.cli.completion import recipe_names, run_folders
from fulldeck.cli.output import Json, write_json
from fulldeck.cli.run import Settings
from fulldeck.cli.several import launched
from fulldeck.errors import BadInput

EXAMPLE = "fulldeck diagnose digits --verify --output better.yaml"


def command(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or the name of a shipped recipe such as digits.",
            autocompletion=recipe_names,
        ),
    ] = None,
    inference: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Instead: the trained model of a finished run, such as runs/latest.",
            autocompletion=run_folders,
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Measure each advice on the recipe, and keep what pays.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --verify: the recipe with what pays (default: NAME.better.yaml)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --output.")] = False,
    budget: Annotated[str, typer.Option(help="With --verify: time for all measurements together.")] = "10m",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure what this machine can do again, instead of once.")
    ] = False,
    settings: Settings = [],  # noqa: B006
    nproc: Annotated[
        int | None,
        typer.Option(min=1, help="Train in so many processes on this machine, as run --nproc does."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where diagnosis.json and its page, diagnosis.html, are kept.")
    ] = Path("diagnosis"),
    open_: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    json: Json = False,
) -> None:
    """Find out where the time and memory of a run go, and which instructions would change that.

    About thirty real steps are run and thrown away. Each instruction predicts its own effect from the
    figures; --verify measures whether it was right, and writes the recipe with what pays.
    """
    from fulldeck.cli.telling import telling
    from fulldeck.evidence.measurement import budget_seconds

    if (recipe is None) == (inference is None):
        raise BadInput("say what to diagnose: a RECIPE, or --inference RUN")
    seconds = budget_seconds(budget)
    if (output is not None or force) and not verify:
        raise BadInput("--output and --force go with --verify, which is what finds a better recipe")
    if inference is not None and (verify or settings):
        raise BadInput("--inference looks at a finished run; --verify and --set go with a RECIPE")
    if nproc is not None and (verify or inference is not None):
        raise BadInput("--nproc goes with a RECIPE alone: --verify and --inference look at one process")
    if verify and settings:
        raise BadInput(
            "--verify writes the recipe anew from its file; write what --set changes into the file"
        )
    if recipe is not None and not verify and launched() is None:
        from fulldeck.cli.launching import launch, processes

        number, settings = processes(recipe, settings, nproc)
        if number > 1:
            flags = {"--fresh": fresh, "--open": open_, "--json": json}
            words = ["diagnose", recipe, "--out", str(out), *(flag for flag, given in flags.items() if given)]
            words += [word for item in settings for word in ("--set", item)]
            raise typer.Exit(launch(words, number, restarts=0))
    with telling() as tell:
        result: dict[str, Any] | None
        if inference is not None:
            from fulldeck.diagnosis.inference import diagnose_inference

            result = diagnose_inference(inference, fresh=fresh, tell=tell)
        else:
            assert recipe is not None
            result = _training(recipe, settings, verify, output, force, seconds, fresh, tell)
    if result is None:
        return
    from fulldeck import report
    from fulldeck.diagnosis.diagnose import keep

    kept = keep(result, out)
    page = kept.with_suffix(".html")
    report.write_diagnosis(result, page)
    if json:
        write_json(result)
    else:
        from fulldeck.cli.diagnosis_summary import write_diagnosis

        write_diagnosis(result)
        for line in _next(result, recipe or "", page):
            typer.echo(line)
    if open_:
        webbrowser.open(page.resolve().as_uri())
    if result.get("improvement", {}).get("status") == "interrupted":
        raise typer.Exit(130)


def _training(
    recipe: str,
    settings: list[str],
    verify: bool,
    output: Path | None,
    force: bool,
    budget: float,
    fresh: bool,
    tell: Any,
) -> dict[str, Any] | None:
    from fulldeck.diagnosis.diagnose import diagnose
    from fulldeck.diagnosis.improvement import check_output, improve
    from fulldeck.recipe.reader import find_recipe, read_recipe

    source = find_recipe(recipe)
    read = read_recipe(source, settings)
    output = output or Path(f"{read.name}.better.yaml")
    if verify:
        check_output(output, force=force)
    result = diagnose(read, fresh=fresh, tell=tell)
    if result is None or not verify:
        return result
    return improve(read, source, result, output, budget=budget, tell=tell)


def _next(result: Mapping[str, Any], recipe: str, page: Path) -> list[str]:
    """What to look at and to type; commands are not wrapped, so that they can be copied."""
    lines = [f"all figures: {page}"]
    improvement = result.get("improvement")
    if improvement is not None and improvement["output"] is not None:
        lines.append(f"fulldeck run {shlex.quote(improvement['output'])}")
    elif result["kind"] == "training" and improvement is None:
        if any(item["blocked"] is None for item in result["advice"]):
            lines.append(f"fulldeck diagnose {shlex.quote(recipe)} --verify --output better.yaml")
        else:
            lines.append(f"fulldeck run {shlex.quote(recipe)}")
    elif result["kind"] == "inference":
        lines.append(f"fulldeck compile {shlex.quote(result['run'])}")
    return lines
