"""`fulldeck tune RECIPE --goal ...`: say the goal, get the recipe."""

from __future__ import annotations

import shlex
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fulldeck.cli.output import Interrupted, Json, figure, write_json, write_table, write_text
from fulldeck.cli.run import Recipe, Settings

EXAMPLE = (
    'fulldeck tune digits --goal "minimize latency_p99_ms" --subject-to "accuracy >= baseline - 0.01" '
    "--budget 10m"
)


def command(
    recipe: Recipe,
    goal: Annotated[
        str | None,
        typer.Option(
            help='"minimize FIGURE" or "maximize FIGURE", such as accuracy, latency_p99_ms, artifact_bytes, '
            "train_seconds or training_peak_bytes; left out: goal: of the recipe."
        ),
    ] = None,
    subject_to: Annotated[
        list[str],
        typer.Option(
            metavar="CONDITION",
            help='Such as "accuracy >= baseline - 0.01" or "artifact_bytes <= 0.5 * baseline"; may be given '
            "several times.",
        ),
    ] = [],  # noqa: B006
    budget: Annotated[str, typer.Option(help="Time for all of it, such as 30m.")] = "30m",
    trials: Annotated[int | None, typer.Option(min=1, help="Most combinations that are tried.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many trials run at once.")] = 1,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the newest unfinished search of this recipe and goal."),
    ] = False,
    settings: Settings = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="The parent of the folders of searches.")] = Path("tunings"),
    open_: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    json: Json = False,
) -> None:
    """Search parameters and instructions for the recipe that meets a goal best.

    Trainings that do badly stop early, trials that differ only in what comes after the training share one, and the
    best are measured again with other seeds, so that an interval meets the goal, not a lucky point. The answer is a
    recipe with a comment on each line, and a page with the trade-off, what mattered, and all that was tried.
    """
    from fulldeck.cli.telling import telling
    from fulldeck.evidence.measurement import budget_seconds
    from fulldeck.recipe.reader import read_recipe
    from fulldeck.tuning.tune import nearest, tune

    seconds = budget_seconds(budget)
    read = read_recipe(recipe, settings)
    try:
        with telling() as tell:
            result = tune(
                read,
                goal=goal,
                subject_to=subject_to,
                budget=seconds,
                trials=trials,
                jobs=jobs,
                out=out,
                resume=resume,
                tell=tell,
            )
    except KeyboardInterrupt:
        words = ["fulldeck", "tune", recipe]
        words += ["--goal", goal] if goal is not None else []
        words += [word for text in subject_to for word in ("--subject-to", text)]
        words += ["--budget", budget]
        words += ["--trials", str(trials)] if trials is not None else []
        words += ["--jobs", str(jobs)] if jobs != 1 else []
        words += [word for item in settings for word in ("--set", item)]
        words += ["--out", str(out)] if out != Path("tunings") else []
        raise Interrupted(f"interrupted; go on with: {shlex.join([*words, '--resume'])}") from None
    if json:
        write_json(result)
    else:
        _write(result)
    page = Path(result["run"]) / "tuning.html"
    if open_:
        webbrowser.open(page.resolve().as_uri())
    if not result["satisfied"]:
        if not json:
            write_text(
                f"the goal is not met: {nearest(result['best'])}"
                if result["best"]
                else "there is no answer yet"
            )
        raise typer.Exit(1)


def _write(result: Mapping[str, Any]) -> None:
    best, baseline = result["best"], result["baseline"]
    conditions = "".join(f", subject to {text}" for text in result["subject_to"])
    write_text(f"{result['goal']}{conditions}")
    ended = sum(one["state"] == "finished" for one in result["tried"])
    write_text(
        f"{result['trials']} combinations tried, {ended} to the end, with {result['trainings']} trainings"
        + (f"; {result['reused']} used a training that was there" if result["reused"] else "")
    )
    for failure in result["failures"]:
        write_text(f"{failure['count']} failed: {failure['cause']}", hanging="  ")
    if best is not None:
        names = [result["goal"].split()[1], *(one["text"].split()[0] for one in best["conditions"])]
        rows = [
            (name, figure(name, baseline["metrics"][name]), _with_interval(name, best))
            for name in dict.fromkeys(names)
        ]
        write_table(("figure", "recipe as it is", f"best (95 % over {len(best['seeds'])} seeds)"), rows)
        for one in next(
            iter([row["changes"] for row in result["tried"] if row["trial"] == best["trial"]])
        ).items():
            write_text(f"{one[0]}: {one[1]}", indent="  ", hanging="  ")
        if best["trial"] == 0:
            write_text("nothing that was tried is better than the recipe as it is")
        typer.echo(f"all figures: {Path(result['run']) / 'tuning.html'}")
        typer.echo(f"fulldeck run {shlex.quote(best['recipe'])}")


def _with_interval(name: str, best: Mapping[str, Any]) -> str:
    ends = best["intervals"][name]
    spread = "" if ends is None else f" ({figure(name, ends[0])} to {figure(name, ends[1])})"
    return f"{figure(name, best['metrics'][name])}{spread}"
