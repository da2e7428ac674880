"""`fulldeck verify NAME`: what an instruction does on this machine, with the interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fulldeck.cli.completion import instruction_names
from fulldeck.cli.output import Json, write_json, write_table, write_text
from fulldeck.errors import BadInput, RunFailed

EXAMPLE = "fulldeck verify amp_optimizer --quick"


def command(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME...]",
            help="Instructions; left out: see --recipe and --all.",
            autocompletion=instruction_names,
        ),
    ] = [],  # noqa: B006
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
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Leave out what --out holds already of this fulldeck on this machine, as thorough as asked.",
        ),
    ] = False,
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

    if bool(names) == everything and recipe is None:
        raise BadInput("say what to verify: an instruction's NAME, --all, or --recipe RECIPE")
    if resume and (recipe is not None or against is not None):
        raise BadInput(
            "--resume is for instructions on their own workloads; leave --recipe and --against out"
        )
    seconds = None if budget is None else budget_seconds(budget)
    one = len(names) == 1 or not (names or everything)
    if not names and recipe is not None:
        if everything:
            raise BadInput("--all measures each instruction on its own workload; leave --recipe out")
        results = [_contributions(recipe, quick, seconds, out)]
        if not json:
            write_contributions(results[0])
    else:
        results = []
        for result in _verdicts(names, recipe, quick, seconds, against, resume, out):
            results.append(result)
            # One that takes long is not kept waiting for the others.
            if not json:
                write_verdict(result)
    if json:
        write_json(as_json(results[0] if one else results))
    if any(result.get("status") == "interrupted" for result in results):
        raise typer.Exit(130)


def _tell_of(name: str, tell: Callable[[str], None], text: str) -> None:
    tell(f"{name}: {text}")


def _verdicts(
    names: list[str],
    recipe: str | None,
    quick: bool,
    budget: float | None,
    against: str | None,
    resume: bool,
    out: Path,
) -> Iterator[dict[str, Any]]:
    """One after the other, each kept as soon as it is there; all there are if none is named."""
    from fulldeck.catalogue import catalogue
    from fulldeck.cli.telling import telling
    from fulldeck.evidence.peers import installed
    from fulldeck.evidence.resume import standing
    from fulldeck.evidence.store import keep
    from fulldeck.evidence.verify import refused, verify

    wanted = [catalogue().find(name) for name in names] or list(catalogue())
    stands = standing(out, quick=quick, budget=budget) if resume else {}
    for entry in wanted:
        if entry.name in stands:
            yield stands[entry.name]
            continue
        beside = against if names or against is not None else installed(entry.evidence["peer"])
        try:
            with telling() as tell:
                result = verify(
                    entry.name,
                    recipe=recipe,
                    quick=quick,
                    budget=budget,
                    against=beside,
                    tell=partial(_tell_of, entry.name, tell),
                )
        except (BadInput, RunFailed) as error:
            if len(names) == 1:
                raise
            # One that cannot be measured must not hide what the others do.
            result = refused(entry.name, str(error), quick=quick, budget=budget)
        yield result | {"file": str(keep(result, out))}
        if result.get("status") == "interrupted":
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
    if late := result.get("not_measured"):
        write_text(f"no time was left for {', '.join(late)}", indent="  ", hanging="  ")


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
