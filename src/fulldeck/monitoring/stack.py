"""The folder that Prometheus, Alertmanager and Grafana start from."""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from fulldeck.errors import BadInput
from fulldeck.files import atomic_path, refusing_disk, write_text
from fulldeck.monitoring.configuration import RULES, TOKEN, alertmanager, prometheus
from fulldeck.monitoring.containers import DATA, compose, dashboards, data_source
from fulldeck.monitoring.grafana import dashboard
from fulldeck.monitoring.panels import SERVER, TRAINING
from fulldeck.monitoring.rules import rules
from fulldeck.monitoring.settings import Monitoring

PROMETHEUS, ALERTMANAGER, COMPOSE, ENVIRONMENT = "prometheus.yml", "alertmanager.yml", "compose.yaml", ".env"
_ADDRESS = re.compile(r"([A-Za-z0-9.\-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


def write_stack(
    folder: Path, settings: Monitoring, *, servers: Sequence[str] = (), trainings: Sequence[str] = ()
) -> Path:
    """Write the configuration of all three to `folder`, for `servers` and live `trainings` at HOST:PORT.

    Two secrets are made once and kept: `token`, which servers are to be started with, and Grafana's password
    in `.env`. What the three have stored in `data/` stays. Returns the folder.

    Raises BadInput for what is no address, for a folder that is something else, and without the extra
    `dashboard`.
    """
    for address in (*servers, *trainings):
        _check_address(address)
    boards = {
        "server": dashboard("fulldeck: server", "fulldeck-server", SERVER, "fulldeck_replicas_wanted"),
        "training": dashboard(
            "fulldeck: training", "fulldeck-training", TRAINING, "fulldeck_training_steps_total"
        ),
    }
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PROMETHEUS).is_file():
        raise BadInput(f"{folder} exists and is not a monitoring folder; give a new one")
    files = {
        # First, for by this one the folder is known again.
        PROMETHEUS: to_yaml(prometheus(settings, servers, trainings)),
        RULES: to_yaml(rules(settings)),
        ALERTMANAGER: to_yaml(alertmanager(settings, servers)),
        COMPOSE: to_yaml(compose()),
        "grafana/provisioning/datasources/fulldeck.yml": to_yaml(data_source(settings)),
        "grafana/provisioning/dashboards/fulldeck.yml": to_yaml(dashboards()),
        **{f"grafana/dashboards/{name}.json": board for name, board in boards.items()},
    }
    with refusing_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / name, content)
        for name in DATA:
            (folder / "data" / name).mkdir(parents=True, exist_ok=True)
        _keep_secret(folder / TOKEN, secrets.token_urlsafe(32))
        password = secrets.token_urlsafe(16)
        _keep_secret(folder / ENVIRONMENT, f"FULLDECK_USER={os.getuid()}\nGRAFANA_PASSWORD={password}\n")
    return folder


def to_yaml(content: Any) -> str:
    """As YAML in the order given, texts of several lines written as such."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(_readable(content), stream)
    return stream.getvalue()


def _check_address(address: str) -> None:
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise BadInput(f'an address is HOST:PORT, such as 127.0.0.1:8000, got "{address}"')


def _keep_secret(path: Path, content: str) -> None:
    """Write a file that only its owner reads, unless it is there already; an empty one protects nothing."""
    if path.is_file() and path.read_text().strip():
        return
    with atomic_path(path, mode=0o600) as temporary:
        temporary.write_text(content)


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value
