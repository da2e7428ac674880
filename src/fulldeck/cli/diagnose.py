"""`fulldeck diagnose RECIPE`: where the time and memory of a run go, and what to do about it."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fulldeck.cli.completion import recipe_names, run_folders
from fulldeck.cli.output import Json, size, width, write_json, write_table, write_text
from fulldeck.cli.run import Settings
from fulldeck.errors import BadInput

EXAMPLE = "fulldeck diagnose digits --verify --output better.yaml"

OPERATORS = 5
SUMMED = ("share", "calls", "flops", "bytes", "milliseconds")
LAYERS = 5
BAR = 24
WORTH_A_BAR = 0.005
"""Shares below this one are not drawn."""


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
    if verify and settings:
        raise BadInput(
            "--verify writes the recipe anew from its file; write what --set changes into the file"
        )
    with telling() as tell:
        if inference is not None:
            from fulldeck.diagnosis.inference import diagnose_inference

            result = diagnose_inference(inference, fresh=fresh, tell=tell)
        else:
            assert recipe is not None
            result = _training(recipe, settings, verify, output, force, seconds, fresh, tell)
    from fulldeck import report
    from fulldeck.diagnosis.diagnose import keep

    kept = keep(result, out)
    page = kept.with_suffix(".html")
    report.write_diagnosis(result, page)
    if json:
        write_json(result)
    else:
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
) -> dict[str, Any]:
    from fulldeck.diagnosis.diagnose import diagnose
    from fulldeck.diagnosis.improvement import check_output, improve
    from fulldeck.recipe import find_recipe, read_recipe

    source = find_recipe(recipe)
    read = read_recipe(source, settings)
    output = output or Path(f"{read.name}.better.yaml")
    if verify:
        check_output(output, force=force)
    result = diagnose(read, fresh=fresh, tell=tell)
    return improve(read, source, result, output, budget=budget, tell=tell) if verify else result


def write_diagnosis(result: Mapping[str, Any]) -> None:
    """A diagnosis for a person: where the time goes, why, and what to do."""
    step = result["step"]
    what = "a step of training" if result["kind"] == "training" else "a forward pass of one row"
    write_text(f"{result['recipe']}: {what} takes {step['milliseconds']:.3g} ms on {result['device']}")
    typer.echo()
    shares = step["phases"] if result["kind"] == "training" else step["bounds"]
    _write_bars({name: share for name, share in shares.items() if share >= WORTH_A_BAR})
    typer.echo()
    for limit in (result["bottleneck"], *result["beside"]):
        write_text(limit["sentence"])
        if limit["missing"]:
            write_text(f"No instruction here eases that. In the field: {limit['missing']}.", indent="  ")
    typer.echo()
    _write_operators(result)
    if result["memory"]:
        kinds = {name: value for name, value in result["memory"].items() if name not in ("peak", "limit")}
        said = ", ".join(f"{name.replace('_', ' ')} {size(value)}" for name, value in kinds.items())
        peak, limit = (size(result["memory"][name]) for name in ("peak", "limit"))
        write_text(f"memory: {said}; at most {peak} of {limit} in use")
    if result["kind"] == "inference":
        _write_model(result)
    typer.echo()
    _write_advice(result)


def _write_bars(shares: Mapping[str, float]) -> None:
    longest = max(map(len, shares), default=0)
    room = max(min(BAR, width() - longest - 8), 4)
    for name, share in shares.items():
        typer.echo(f"{name:<{longest}} {share:>5.0%} {'#' * round(share * room)}".rstrip())


def _write_operators(result: Mapping[str, Any]) -> None:
    """The costliest by name and phase, whatever their shapes."""
    together: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in result["operators"]:
        key = one["name"].removeprefix("aten::"), one["phase"], one["bound"]
        sums = together.setdefault(key, dict.fromkeys(SUMMED, 0.0))
        for figure in SUMMED:
            sums[figure] += one[figure]
    costliest = sorted(together.items(), key=lambda item: -item[1]["share"])[:OPERATORS]
    rows = [
        (f"{sums['share']:.0%}", name, f"{phase}, {sums['calls']:.0f} calls, {_rates(sums)}: {bound}-bound")
        for (name, phase, bound), sums in costliest
    ]
    write_table(("share", "operator", "what it does"), rows)


def _rates(sums: Mapping[str, float]) -> str:
    figure, unit = ("flops", "GFLOP/s") if sums["flops"] else ("bytes", "GB/s")
    return f"{sums[figure] / sums['milliseconds'] / 1e6:.3g} {unit}"


def _write_model(result: Mapping[str, Any]) -> None:
    batches = ", ".join(
        f"batch {rows}: {one['milliseconds']:.3g} ms" for rows, one in result["batches"].items()
    )
    write_text(batches)
    if result["chains"]:
        chains = "; ".join(" + ".join(chain) for chain in result["chains"][:LAYERS])
        write_text(f"{len(result['chains'])} chains that one kernel could do: {chains}", hanging="  ")
    tried = [layer for layer in result["layers"] if layer["error"]]
    worst = sorted(tried, key=lambda layer: layer["error"]["int8"], reverse=True)[:LAYERS]
    rows = [(one["name"], one["kind"], f"{one['error']['int8']:.2%}", one["tolerates"]) for one in worst]
    if rows:
        typer.echo("most sensitive layers, weights alone rounded:")
        write_table(("layer", "kind", "change by int8", "tolerates"), rows)
    for engine in result["engines"]:
        write_text(f"engine {engine['name']}: {engine['reason'] or 'available'}")


def _write_advice(result: Mapping[str, Any]) -> None:
    if not result["advice"]:
        write_text("No instruction of the catalogue predicts an effect from these figures.")
        return
    rows = []
    for item in result["advice"]:
        said = item["reason"] if item["blocked"] is None else f"cannot be added: {item['blocked']}"
        rows.append((item["name"], _predicted(item), f"{said}. Cost: {item['cost']}."))
    write_table(("instruction", "predicted", "why"), rows)
    for item in result["advice"]:
        if "verified" in item:
            write_text(f"{item['name']}: {verified(item)}", hanging="  ")
    if (improvement := result.get("improvement")) is not None:
        write_text(_improved(improvement))


def _predicted(item: Mapping[str, Any]) -> str:
    return f"{item['figure']} {item['predicted']:.2f}x"


def verified(item: Mapping[str, Any]) -> str:
    """What was predicted beside what was measured."""
    one = item["verified"]
    if one.get("ratio") is None:
        return f"{one['verdict']}; {one['reason'] or 'another figure than predicted was measured'}"
    between = "" if one["interval"] is None else " ({:.2f} to {:.2f})".format(*one["interval"])
    missed = ": the prediction missed" if one["missed"] else ""
    why = f"; {one['reason']}" if one["reason"] else ""
    late = f"; no time was left for {', '.join(one['not_measured'])}" if one["not_measured"] else ""
    return (
        f"{one['verdict']}, predicted {item['predicted']:.2f}x, measured {one['ratio']:.2f}x"
        f"{between}{missed}{why}{late}"
    )


def _improved(improvement: Mapping[str, Any]) -> str:
    if improvement["output"] is None:
        interrupted = "interrupted; " if improvement["status"] == "interrupted" else ""
        return f"{interrupted}nothing was shown to pay, so no recipe was written"
    low, high = improvement["interval"]
    return (
        f"{improvement['output']}: {improvement['metric']} {improvement['ratio']:.2f}x ({low:.2f} to {high:.2f}) "
        f"of the recipe as it was, with {', '.join(improvement['kept'])}"
    )


def _next(result: Mapping[str, Any], recipe: str, page: Path) -> list[str]:
    """What to look at and to type; commands are not wrapped, so that they can be copied."""
    import shlex

    lines = [f"all figures: {page}"]
    improvement = result.get("improvement")
    if improvement is not None and improvement["output"] is not None:
        lines.append(f"fulldeck run {shlex.quote(improvement['output'])}")
    elif result["kind"] == "training" and improvement is None:
        if any(item["blocked"] is None for item in result["advice"]):
            lines.append(f"fulldeck diagnose {shlex.quote(recipe)} --verify --output better.yaml")
        else:
            lines.append(f"fulldeck run {shlex.quote(recipe)}")
    elif result["kind"] == "inference" and result["advice"]:
        lines.append(f"fulldeck show {result['advice'][0]['name']}")
    return lines
