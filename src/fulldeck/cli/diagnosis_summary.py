"""What a diagnosis shows on a terminal: where the time goes, the bottleneck, the advice and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from fulldeck.cli.output import size, width, write_table, write_text
from fulldeck.figures import milliseconds

OPERATORS = 5
SUMMED = ("share", "calls", "flops", "bytes", "milliseconds")
LAYERS = 5
BAR = 24
WORTH_A_BAR = 0.005
"""Shares below this one are not drawn."""


def write_diagnosis(result: Mapping[str, Any]) -> None:
    """A diagnosis for a person: where the time goes, why, and what to do."""
    step = result["step"]
    what = "a step of training" if result["kind"] == "training" else "a forward pass of one row"
    write_text(f"{result['recipe']}: {what} takes {milliseconds(step['milliseconds'])} on {result['device']}")
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
    write_text(_ceilings(result["ceilings"]), hanging="  ")
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


def _ceilings(ceilings: Mapping[str, Any]) -> str:
    rates = ", ".join(f"{dtype} {rate / 1e9:.3g}" for dtype, rate in ceilings["flops_per_s"].items())
    return f"at best, as measured on this machine: {rates} GFLOP/s; {ceilings['bytes_per_s'] / 1e9:.3g} GB/s"


def _write_model(result: Mapping[str, Any]) -> None:
    batches = ", ".join(
        f"batch {rows}: {milliseconds(one['milliseconds'])}" for rows, one in result["batches"].items()
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
        return f"{interrupted}nothing has been shown to pay here, so no recipe was written"
    low, high = improvement["interval"]
    return (
        f"{improvement['output']}: {improvement['metric']} {improvement['ratio']:.2f}x ({low:.2f} to {high:.2f}) "
        f"of the recipe as it was, with {', '.join(improvement['kept'])}"
    )
