"""`fulldeck verify NAME`: what an instruction does on this machine, with the interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fulldeck.cli.output import Json, write_json, write_table, write_text
from fulldeck.errors import BadInput, RunFailed

EXAMPLE = "fulldeck verify amp_optimizer --quick"


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="An instruction; left out: see --recipe and --all.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Measure on this recipe instead of the workload that the instruction's evidence names. "
            "Without NAME: leave out each of its instructions in turn, and each pair of them."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every instruction of the catalogue.")] = False,
    quick: Annotated[bool, typer.Option(help="Only the first look (15 rounds) and three seeds.")] = False,
    budget: Annotated[str | None, typer.Option(help="Time for each measurement, such as 5m.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Also measure this library, doing the same on the same workload.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results are kept.")] = Path("evidence"),
    json: Json = False,
) -> None:
    """Measure what an instruction does, against the same recipe without it.

    Both run in processes of their own, in turns, beside a second baseline that shows how much the machine
    itself wavers. The verdict is helps, no difference, hurts or inconclusive. Results are kept below --out;
    `fulldeck evidence` lists them.
    """
    from fulldeck.evidence.measurement import budget_seconds

    if (name is None) == (not everything) and recipe is None:
        raise BadInput("say what to verify: an instruction's NAME, --all, or --recipe RECIPE")
    seconds = None if budget is None else budget_seconds(budget)
    with _progress() as tell:
        if name is None and recipe is not None:
            results = [_contributions(recipe, quick, seconds, out, tell)]
        else:
            results = _verdicts(name, recipe, quick, seconds, against, out, tell)
    if json:
        write_json(results if everything else results[0])
    elif name is None and recipe is not None:
        write_contributions(results[0])
    else:
        for result in results:
            write_verdict(result)
    if any(result.get("status") == "interrupted" for result in results):
        raise typer.Exit(130)


def _verdicts(
    name: str | None,
    recipe: str | None,
    quick: bool,
    budget: float | None,
    against: str | None,
    out: Path,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    from fulldeck.catalogue import catalogue
    from fulldeck.evidence.store import keep
    from fulldeck.evidence.verify import verify

    names = [name] if name is not None else [entry.name for entry in catalogue()]
    results: list[dict[str, Any]] = []
    for one in names:
        try:
            result = verify(
                one,
                recipe=recipe,
                quick=quick,
                budget=budget,
                against=against,
                tell=lambda text, one=one: tell(f"{one}: {text}"),  # type: ignore[misc]
            )
        except (BadInput, RunFailed) as error:
            if name is not None:
                raise
            # One that cannot be measured must not hide what the others do.
            results.append({"name": one, "verdict": "not measured", "reason": str(error)})
            continue
        result["file"] = str(keep(result, out))
        results.append(result)
        if result["status"] == "interrupted":
            break
    return results


def _contributions(
    recipe: str, quick: bool, budget: float | None, out: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    from fulldeck.evidence.contributions import contributions
    from fulldeck.evidence.store import keep_contributions

    result = contributions(recipe, quick=quick, budget=budget, tell=tell)
    return result | {"file": str(keep_contributions(result, out))}


def write_verdict(result: Mapping[str, Any]) -> None:
    """One result in words."""
    typer.echo(f"{result['name']}: {result['verdict']}")
    if "metric" in result:
        for figure in (result, *result["costs"], *result.get("peers", {}).values()):
            write_text(said(figure), indent="  ", hanging="  ")
    if "reason" in result:
        write_text(result["reason"], indent="  ", hanging="  ")


def said(figure: Mapping[str, Any]) -> str:
    """`step_time 0.62x (0.60 to 0.65), claimed <= 0.7x: holds`."""
    low, high = figure["interval"]
    if figure["baseline"] is None:
        effect = f"{figure['treatment']:.4g}"
    elif "difference" in figure:
        effect = f"{figure['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
    else:
        effect = f"{figure['ratio']:.3f}x ({low:.3f} to {high:.3f})"
    holds = {True: "holds", False: "does not hold", None: "open"}[figure["claim_holds"]]
    peer = f"{figure['peer']}: " if "peer" in figure else ""
    claimed = f"; claimed {figure['claim']}: {holds}" if "peer" not in figure else ""
    return (
        f"{peer}{figure['metric']} {effect}, {figure['rounds']} {figure.get('repeated', 'rounds')}{claimed}"
    )


def write_contributions(result: Mapping[str, Any]) -> None:
    """What each instruction of a recipe contributes, and which pairs depend on each other."""
    metric = result["metric"]
    rows = [
        (
            one["label"],
            f"{one[metric]['estimate']:+.4f}",
            f"{one['step_time_ms']['estimate']:.2f}x",
            f"{one['artifact_bytes']['estimate']:.2f}x",
            one["verdict"],
        )
        for one in result["instructions"]
    ]
    write_table(("instruction", metric, "step time", "bytes", "in this recipe it"), rows)
    for label, reason in result["left_in"].items():
        write_text(f"{label} was left in: {reason}", hanging="  ")
    for pair in result["pairs"]:
        if pair["verdict"] != "no difference" and pair["verdict"] != "inconclusive":
            write_text(f"{' and '.join(pair['labels'])} {pair['verdict']} each other: {metric} "
                       f"{pair['interaction']['estimate']:+.4f}", hanging="  ")  # fmt: skip


def _progress() -> Any:
    from fulldeck.cli.telling import telling

    return telling()
