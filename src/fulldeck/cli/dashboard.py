"""`fulldeck dashboard RUN --out DIR`: what Prometheus, Alertmanager and Grafana need to watch a server."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.output import Json, Quiet, write_json, write_text
from fulldeck.cli.target import Target

EXAMPLE = "fulldeck dashboard runs/latest --out monitoring"
SERVER = "127.0.0.1:8000"


def command(
    target: Target,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("monitoring"),
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help=f"A server to watch; repeatable; left out: {SERVER}."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what Prometheus, Alertmanager and Grafana need.

    Configuration of all three, recording and alerting rules, dashboards, and a compose file that starts them
    on loopback. A server shows itself in a browser without any of it, at /ui.
    """
    from fulldeck.cli.target import package_folder
    from fulldeck.monitoring.configuration import TOKEN
    from fulldeck.monitoring.settings import CARRIED, Monitoring
    from fulldeck.monitoring.stack import ALERTMANAGER, PROMETHEUS, write_stack
    from fulldeck.package import Package

    carried = Package.open(package_folder(target)).service.carried
    servers = server or [SERVER]
    folder = write_stack(out, Monitoring(**carried.get(CARRIED, {})), servers=servers)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    here, served = shlex.quote(str(folder)), shlex.quote(str(target))
    start = {
        "server": f"FULLDECK_TOKEN=$(cat {here}/{TOKEN}) fulldeck serve {served}",
        "containers": f"docker compose --project-directory {here} up",
        "prometheus": f"prometheus --config.file={here}/{PROMETHEUS} --storage.tsdb.path={here}/data/prometheus "
        "--web.listen-address=127.0.0.1:9090 --rules.alert.resend-delay=5s",
        "alertmanager": f"prometheus-alertmanager --config.file={here}/{ALERTMANAGER} "
        f"--storage.path={here}/data/alertmanager --web.listen-address=127.0.0.1:9093 --cluster.listen-address=",
    }
    if json:
        write_json({"folder": folder, "files": files, "servers": servers, "start": start})
        return
    if quiet:
        return
    write_text(f"{folder}: {', '.join(files)}")
    typer.echo(f"\nThe server, with the token that is asked for then:\n  {start['server']}")
    typer.echo(f"All that watches it, in containers (Grafana's password is in {folder}/.env):")
    typer.echo(f"  {start['containers']}")
    typer.echo("Or, as Debian's prometheus and prometheus-alertmanager:")
    typer.echo(f"  {start['prometheus']}\n  {start['alertmanager']}")
