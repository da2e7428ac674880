"""`fulldeck compile RUN`: the fastest engine and precision for a trained model on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fulldeck.cli.completion import run_folders
from fulldeck.cli.output import Json, write_json, write_table, write_text

EXAMPLE = "fulldeck compile runs/latest --engine auto"
WORKSPACE, METRIC_DROP, AGREEMENT = 4096, 0.01, 0.98


def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A finished run, such as runs/latest.", autocompletion=run_folders
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            help="auto (all that are here), torch, torch_compiled, onnxruntime, openvino, tvm or tensorrt."
        ),
    ] = "auto",
    fp32: Annotated[bool, typer.Option("--fp32", help="Only this precision (or these).")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Only this precision (or these).")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Only this precision (or these).")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Only this precision (or these).")] = False,
    workspace: Annotated[
        int, typer.Option(metavar="MIB", min=1, help="Memory that TensorRT may work in, in MiB.")
    ] = WORKSPACE,
    shapes: Annotated[
        list[str],
        typer.Option(
            metavar="SIZES",
            help="Sizes to compile for: a batch (8, 1:64 or 1:8:64, least:best:largest), or all axes of an "
            "input: input=1:8:64x3x32x32. Measured at the best sizes.",
        ),
    ] = [],  # noqa: B006
    metric_drop: Annotated[
        float, typer.Option(metavar="DROP", min=0, help="What the metric may lose on validation data.")
    ] = METRIC_DROP,
    agreement: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Least share of answers that stay the same.")
    ] = AGREEMENT,
    tune_trials: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Programs that TVM may try while it tunes; 0 does not tune."),
    ] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is in the cache.")] = False,
    json: Json = False,
) -> None:
    """Find the fastest engine and precision for the model that RUN trained, and put it into its package.

    Each engine that is here compiles the model in each precision; each form is compared with the fp32 module on
    validation data, and those within the tolerance take turns until the intervals tell. The winner is added to
    the run's package as the preferred form, for serve and predict; native code runs on this kind of machine only.
    """
    from fulldeck.candidate import Tolerance
    from fulldeck.cli.telling import telling
    from fulldeck.compilation.compile import compile_run
    from fulldeck.engines import known
    from fulldeck.engines.source import Settings

    flags = {"fp32": fp32, "fp16": fp16, "bf16": bf16, "int8": int8}
    with telling() as tell:
        result = compile_run(
            run,
            engine=engine if engine == "auto" else known(engine),
            precisions=[name for name, wanted in flags.items() if wanted],
            shapes=shapes,
            settings=Settings(workspace, tune_trials),
            tolerance=Tolerance(metric_drop=metric_drop, agreement=agreement),
            fresh=fresh,
            tell=tell,
        )
    if json:
        write_json(result)
    else:
        _write(result)


def _write(result: Mapping[str, Any]) -> None:
    rows = [_row(one) for one in result["engines"]]
    write_table(
        ("engine", "precision", "ms (95 %)", "ratio", "same answers", "largest diff.", "remark"), rows
    )
    chosen = result["chosen"]
    sizes = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in result["measured_at"].items())
    again = " (kept from an earlier measurement; --fresh measures again)" if result["cached"] else ""
    write_text(f"measured at {sizes}; compared with {result['reference']}, on validation data{again}")
    for note in result["notes"]:
        write_text(note)
    size = f"{result['artifact']}, {chosen['bytes'] / 2**20:.1f} MiB"
    if result["package"]:
        write_text(f"chosen: {chosen['name']} {chosen['precision']}, in {result['package']} ({size})")
        typer.echo(f"fulldeck serve {result['run']}")
    else:
        write_text(f"chosen: {chosen['name']} {chosen['precision']} ({size})")
        write_text(f"not in a package: {result['why_no_package']}")


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    latency, agreement, difference = one["latency_ms"], one["agreement"], one["difference"]
    interval = one["interval"]
    spread = f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
    return (
        one["name"],
        " ".join(filter(None, (one["precision"], one["how"]))),
        "-" if latency is None else f"{latency:.3g}{spread}",
        "-" if one["ratio"] is None else f"{one['ratio']:.2f}x",
        "-" if agreement is None else f"{agreement:.2%}",
        "-" if difference is None else f"{difference:.2g}",
        one["reason"] or "",
    )
