"""`fulldeck dashboard RUN`: a live page of a training, or what Prometheus, Alertmanager and Grafana need."""

from __future__ import annotations

import json as json_module
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.output import Json, Quiet, write_json, write_text
from fulldeck.cli.target import Target
from fulldeck.errors import BadInput

EXAMPLE = "fulldeck dashboard runs/latest --live"
SERVER, PAGE_PORT = "127.0.0.1:8000", 8002
PAGE = f"127.0.0.1:{PAGE_PORT}"


def command(
    target: Target,
    live: Annotated[bool, typer.Option("--live", help="Show the run's training in a browser.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write what Prometheus, Alertmanager and Grafana need there."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the live page; 0 takes any free one.")
    ] = PAGE_PORT,
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help=f"A server to watch; repeatable; left out: {SERVER}."),
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help=f"A live page to watch, such as {PAGE}; repeatable."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Watch a training or a server.

    With --live a page on loopback follows the run's training until interrupted; its figures are at /metrics
    for Prometheus. A server has such a page by itself, at /ui.

    With --out it writes the configuration of Prometheus, Alertmanager and Grafana: rules, alerts, dashboards,
    and a compose file that starts them on loopback.
    """
    if live == (out is not None):
        raise BadInput("say what is wanted: --live for a page of the training, or --out DIR for Prometheus")
    if out is None:
        _show(target, port, json, quiet)
    else:
        _write(target, out, server, training, json, quiet)


def _show(run: Path, port: int, json: bool, quiet: bool) -> None:
    from fulldeck.serving.run_page import serve_run

    def ready(url: str) -> None:
        if json:
            typer.echo(json_module.dumps({"url": f"{url}/ui", "metrics": f"{url}/metrics"}))
        elif not quiet:
            typer.echo(f"{run} is shown at {url}/ui; Ctrl-C stops it")

    serve_run(run, port=port, on_ready=ready)


def _write(
    target: Path,
    out: Path,
    server: Sequence[str] | None,
    training: Sequence[str] | None,
    json: bool,
    quiet: bool,
) -> None:
    from fulldeck.cli.target import package_folder
    from fulldeck.monitoring.configuration import TOKEN
    from fulldeck.monitoring.settings import CARRIED, Monitoring
    from fulldeck.monitoring.stack import ALERTMANAGER, PROMETHEUS, write_stack
    from fulldeck.package import Package

    settings, servers, trainings = Monitoring(), list(server or ()), list(training or ())
    if (target / "recipe.yaml").is_file() and not (target / "package").is_dir():
        trainings = trainings or [PAGE]
    else:
        settings = Monitoring(**Package.open(package_folder(target)).service.carried.get(CARRIED, {}))
        servers = servers or [SERVER]
    folder = write_stack(out, settings, servers=servers, trainings=trainings)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    here, watched = shlex.quote(str(folder)), shlex.quote(str(target))
    start = {
        **_each("server", servers, f"FULLDECK_TOKEN=$(cat {here}/{TOKEN}) fulldeck serve {watched}", SERVER),
        **_each("training", trainings, f"fulldeck dashboard {watched} --live", PAGE),
        "containers": f"docker compose --project-directory {here} up",
        "prometheus": f"prometheus --config.file={here}/{PROMETHEUS} --storage.tsdb.path={here}/data/prometheus "
        "--web.listen-address=127.0.0.1:9090 --rules.alert.resend-delay=5s",
        "alertmanager": f"prometheus-alertmanager --config.file={here}/{ALERTMANAGER} "
        f"--storage.path={here}/data/alertmanager --web.listen-address=127.0.0.1:9093 --cluster.listen-address=",
    }
    if json:
        watches = {"servers": servers, "trainings": trainings}
        write_json({"folder": folder, "files": files, **watches, "start": start})
        return
    if quiet:
        return
    write_text(f"{folder}: {', '.join(files)}")
    said = {
        "server": "The server, with the token that Prometheus and Alertmanager will send:",
        "training": "The training's page:",
        "containers": f"All that watches, in containers (Grafana's password is in {folder}/.env):",
        "prometheus": "or without them, where Prometheus and Alertmanager are installed:",
    }
    for name, line in start.items():
        if name in said:
            typer.echo(f"\n{said[name]}")
        typer.echo(f"  {line}")


def _each(name: str, addresses: Sequence[str], line: str, default: str) -> dict[str, str]:
    """By name the command for each address: `line`, with what differs from the `default` address."""
    usual_host, _, usual_port = default.rpartition(":")
    lines: dict[str, str] = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        # A live page is on loopback only.
        at = "" if host == usual_host or name == "training" else f" --host {host.strip('[]')}"
        at += "" if port == usual_port else f" --port {port}"
        lines[f"{name} {address}" if lines else name] = line + at
    return lines
