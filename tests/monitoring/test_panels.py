"""Every panel's query on a live Prometheus, of a server that works: it must find data."""

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fulldeck.monitoring.panels import SERVER, TRAINING, Panel
from fulldeck.monitoring.rules import rules
from fulldeck.monitoring.settings import Monitoring
from tests.serving.packages import sum_package
from tests.serving.servers import running
from tests.serving.test_metrics import scrape

from .live_stack import LiveStack, live_stack

SECONDS = 60.0


def queries(panels: Sequence[Panel], model: str) -> dict[str, str]:
    """Panel and legend to the query as Grafana sends it, where samples are a second apart."""
    return {
        f"{panel.title}: {line.legend}": line.query.replace("$model", model).replace("$__rate_interval", "4s")
        for panel in panels
        for line in panel.lines
    }


def without_data(stack: LiveStack, asked: dict[str, str]) -> list[str]:
    """Which of these find nothing, or nothing but NaN."""
    return [
        name
        for name, query in asked.items()
        if not any(math.isfinite(float(found["value"][1])) for found in stack.query(query))
    ]


@pytest.mark.services
def test_every_panel_of_a_server_has_data_after_traffic(tmp_path: Path) -> None:
    with (
        live_stack(tmp_path / "monitoring") as stack,
        running(sum_package(tmp_path / "package"), FULLDECK_TOKEN=stack.token) as server,
    ):
        stack.configure([f"127.0.0.1:{server.port}"])
        stack.start("prometheus")
        asked = queries(SERVER, "sums") | {
            name: f'{name}{{model="sums"}}'
            for name in ("model:fulldeck_errors:ratio_rate5m", "model:fulldeck_slow:ratio_rate5m")
        }
        tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        end = time.monotonic() + SECONDS
        while missing := without_data(stack, asked):
            assert time.monotonic() < end, missing
            for _ in range(20):
                server.ask(
                    "POST",
                    "/v2/models/sums/infer",
                    {"inputs": [tensor]},
                    authorization=f"Bearer {stack.token}",
                )
                time.sleep(0.01)
        page = scrape(server, stack.token)
        assert not stack.query('ALERTS{alertname="FulldeckUtilisationUnknown"}')
    named = {name for name, *_ in page}
    for name in metrics_named(SERVER):
        assert name in named or name == "fulldeck_memory_bandwidth_bytes_per_second", (
            "counted by few machines"
        )


def metrics_named(panels: Sequence[Panel]) -> set[str]:
    """The metrics that panels and rules ask for."""
    texts = [line.query for panel in panels for line in panel.lines] + [
        rule["expr"] for group in rules(Monitoring())["groups"] for rule in group["rules"]
    ]
    return {name for text in texts for name in re.findall(r"(?<![\w:])fulldeck_\w+", text)}


def test_panels_of_both_dashboards_share_the_devices() -> None:
    for title in ("Utilisation", "Memory bandwidth", "Memory"):
        one, other = (panel for panel in (*SERVER, *TRAINING) if panel.title == title)
        assert (one.unit, one.lines) == (other.unit, other.lines)
