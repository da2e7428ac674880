"""What Prometheus and Alertmanager are configured with, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fulldeck.monitoring.scaling import WATCHDOG
from fulldeck.monitoring.settings import Monitoring

RULES, TOKEN = "rules.yml", "token"
"""Files beside both configurations."""
SERVERS, TRAININGS = "fulldeck", "fulldeck_training"
"""Jobs of Prometheus."""


def prometheus(settings: Monitoring, servers: Sequence[str], trainings: Sequence[str]) -> dict[str, Any]:
    """The content of prometheus.yml."""
    interval = f"{settings.interval_s}s"
    jobs = {SERVERS: servers, TRAININGS: trainings}
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval, "scrape_timeout": interval},
        "rule_files": [RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9093"]}]}]},
        "scrape_configs": [
            {
                "job_name": job,
                "authorization": {"credentials_file": TOKEN},
                "static_configs": [{"targets": list(addresses)}],
            }
            for job, addresses in jobs.items()
            if addresses
        ],
    }


def alertmanager(settings: Monitoring, servers: Sequence[str]) -> dict[str, Any]:
    """The content of alertmanager.yml: each server hears of its own load, people of the rest."""
    again = {"group_wait": "0s", "group_interval": f"{settings.interval_s}s", "repeat_interval": "1m"}
    load = [
        {
            "receiver": f"scale {address}",
            "matchers": ['severity="scale"', f'instance="{address}"'],
            "group_by": ["alertname", "instance", "model"],
            **again,
        }
        for address in servers
    ]
    alive = [
        {"receiver": f"scale {address}", "matchers": [f'alertname="{WATCHDOG}"'], "continue": True, **again}
        for address in servers
    ]
    return {
        # Pages and tickets go nowhere yet: where they should is known to those who are to hear them.
        "route": {"receiver": "people", "group_by": ["alertname", "model"], "routes": [*load, *alive]},
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="FulldeckDown"'],
                "target_matchers": ['severity=~"scale|ticket"'],
                "equal": ["job", "instance"],
            }
        ],
        "receivers": [{"name": "people"}, *map(_receiver, servers)],
    }


def _receiver(address: str) -> dict[str, Any]:
    return {
        "name": f"scale {address}",
        "webhook_configs": [
            {
                "url": f"http://{address}/alerts",
                "send_resolved": True,
                "http_config": {"authorization": {"credentials_file": TOKEN}},
            }
        ],
    }
