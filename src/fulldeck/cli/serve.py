"""`fulldeck serve RUN|PACKAGE`: start a server from a package."""

from __future__ import annotations

import json as json_module
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fulldeck.cli.output import Json, LogJson, Quiet, log
from fulldeck.cli.target import Target, package_folder

if TYPE_CHECKING:
    from fulldeck.serving.server import Addresses

EXAMPLE = "fulldeck serve runs/latest --port 8000"
SEND = {
    "image": "--data-binary @IMAGE",
    "text": """--json '{"text": "..."}'""",
    "tokens": """--json '{"text": "..."}'""",
    "tensor": """--json '{"input": [1, 2]}'""",
}
"""Kind of encoder to how one item is sent with curl; a table's row has its own columns."""


def command(
    target: Target,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; off loopback FULLDECK_TOKEN must hold a secret.")
    ] = "127.0.0.1",
    grpc_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Serve over gRPC, too, here; 0 takes any free port."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="auto, or an engine that the package has a form for; left out: as packaged."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Engine processes; left out: as packaged.")] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX", help="Engine processes by load, between these; left out: as packaged."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one engine process; left out: as packaged.")
    ] = None,
    queue: Annotated[int | None, typer.Option(help="Requests that may wait; left out: as packaged.")] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(help="Most milliseconds of a request; left out: as packaged.")
    ] = None,
    on: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="Engines in processes here, or on a cluster of Ray (RAY_ADDRESS, or one started here)."
        ),
    ] = "local",
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Serve only what was signed with the private key of this one."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Serve a packaged model over HTTP until interrupted.

    Programs talk to /v2/models/MODEL/infer (Open Inference Protocol v2) or gRPC, people to /predict. With
    --json, one line with the server's url is written once it is ready. Ctrl-C stops it.

    /ui shows how it fares in a browser, /metrics tells it to Prometheus.
    """
    from fulldeck.encoders.table import TableEncoder
    from fulldeck.engines import known
    from fulldeck.monitoring.scaling import CARRIED, Scaling
    from fulldeck.package import Package
    from fulldeck.run_folder import example_of
    from fulldeck.serving import serve

    package = Package.open(package_folder(target))
    given = {
        "engine": engine if engine in (None, "auto") else known(engine),
        "workers": workers,
        "threads": threads,
        "queue": queue,
        "deadline_ms": deadline_ms,
    }
    serving = package.service.serving.replace(**{name: it for name, it in given.items() if it is not None})
    scaling = None
    if replicas is not None:
        scaling = Scaling(**package.service.carried.get(CARRIED, {})).replace(**Scaling.bounds(replicas))
    model, encoder = package.service.model, package.encoder()
    if (kept := example_of(target)) is not None:
        send = f"--data-binary @{shlex.quote(str(kept))}"
    elif isinstance(encoder, TableEncoder):
        send = f"--json {shlex.quote(json_module.dumps({'row': encoder.example()}, ensure_ascii=False))}"
    else:
        send = SEND[encoder.kind]

    def ready(at: Addresses) -> None:
        if json:
            typer.echo(json_module.dumps({"url": at.url, "grpc": at.grpc, "model": model}))
        elif log_json:
            told = {"model": model, "url": at.url, "grpc": at.grpc}
            log.info("%s is served at %s", model, at.url, extra=told)
        elif not quiet:
            grpc = f" and over gRPC at {at.grpc}" if at.grpc else ""
            typer.echo(f"{model} is served at {at.url}{grpc}; Ctrl-C stops it. Try:")
            typer.echo(f"  curl {at.url}/predict {send}")

    serve(
        package.folder,
        host=host,
        port=port,
        grpc_port=grpc_port,
        serving=serving,
        scaling=scaling,
        public_key=public_key,
        on=on,
        on_ready=ready,
    )
