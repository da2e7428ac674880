"""`fulldeck verify NAME`: what an instruction does on this machine, with the interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Every instruction, on the workload that its evidence names, beside its peer if that is here.",
        ),
    ] = False,
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
    from fulldeck.evidence.store import as_json

    if (name is None) == (not everything) and recipe is None:
        raise BadInput("say what to verify: an instruction's NAME, --all, or --recipe RECIPE")
    seconds = None if budget is None else budget_seconds(budget)
    if name is None and recipe is not None:
        if everything:
            raise BadInput("--all measures each instruction on its own workload; leave --recipe out")
        results = [_contributions(recipe, quick, seconds, out)]
        if not json:
            write_contributions(results[0])
    else:
        results = []
        for result in _verdicts(name, recipe, quick, seconds, against, out):
            results.append(result)
            # One that takes long is not kept waiting for the others.
            if not json:
                write_verdict(result)
    if json:
        write_json(as_json(results if everything else results[0]))
    if any(result.get("status") == "interrupted" for result in results):
        raise typer.Exit(130)


def _verdicts(
    name: str | None, recipe: str | None, quick: bool, budget: float | None, against: str | None, out: Path
) -> Iterator[dict[str, Any]]:
    from fulldeck.catalogue import catalogue
    from fulldeck.cli.telling import telling
    from fulldeck.evidence.peers import installed
    from fulldeck.evidence.store import keep
    from fulldeck.evidence.verify import verify

    everything = name is None
    for entry in catalogue() if name is None else [catalogue().find(name)]:
        beside = installed(entry.evidence["peer"]) if everything and against is None else against
        try:
            with telling() as tell:
                result = verify(
                    entry.name,
                    recipe=recipe,
                    quick=quick,
                    budget=budget,
                    against=beside,
                    tell=lambda text, one=entry.name, tell=tell: tell(f"{one}: {text}"),  # type: ignore[misc]
                )
        except (BadInput, RunFailed) as error:
            if not everything:
                raise
            # One that cannot be measured must not hide what the others do.
            yield {"name": entry.name, "verdict": "not measured", "reason": str(error)}
            continue
        yield result | {"file": str(keep(result, out))}
        if result["status"] == "interrupted":
            return


def _contributions(recipe: str, quick: bool, budget: float | None, out: Path) -> dict[str, Any]:
    from fulldeck.cli.telling import telling
    from fulldeck.evidence.contributions import contributions
    from fulldeck.evidence.store import keep_contributions

    with telling() as tell:
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
    few = None if math.isfinite(high - low) else "too few for an interval"
    if figure["baseline"] is None:
        effect = f"{figure['treatment']:.4g}"
    elif "difference" in figure:
        effect = f"{figure['difference']:+.4f} ({few or f'{low:+.4f} to {high:+.4f}'})"
    else:
        effect = f"{figure['ratio']:.3f}x ({few or f'{low:.3f} to {high:.3f}'})"
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
