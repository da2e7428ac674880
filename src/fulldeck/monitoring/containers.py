"""A compose file that starts Prometheus, Alertmanager and Grafana, and what Grafana is provisioned with.

All three share the host's network and listen on loopback only; they run as the user who wrote the files, and
keep what they store beside them, in `data/`.
"""

from __future__ import annotations

from typing import Any

from fulldeck.monitoring.grafana import SOURCE
from fulldeck.monitoring.settings import Monitoring

DATA = ("prometheus", "alertmanager", "grafana")
IMAGES = {
    "prometheus": "prom/prometheus:v3.5.0",
    "alertmanager": "prom/alertmanager:v0.28.1",
    "grafana": "grafana/grafana:12.1.0",
}
HERE = "/etc/fulldeck"
"""Where containers see the folder."""


def compose() -> dict[str, Any]:
    """The content of compose.yaml; FULLDECK_USER and GRAFANA_PASSWORD come from `.env` beside it."""
    return {
        "services": {
            "prometheus": _service(
                "prometheus",
                command=[
                    f"--config.file={HERE}/prometheus.yml",
                    f"--storage.tsdb.path=/data/{DATA[0]}",
                    "--web.listen-address=127.0.0.1:9090",
                    # Or an alert that Alertmanager has missed comes again after a minute only.
                    "--rules.alert.resend-delay=5s",
                ],
            ),
            "alertmanager": _service(
                "alertmanager",
                command=[
                    f"--config.file={HERE}/alertmanager.yml",
                    f"--storage.path=/data/{DATA[1]}",
                    "--web.listen-address=127.0.0.1:9093",
                    "--cluster.listen-address=",
                ],
            ),
            "grafana": _service(
                "grafana",
                environment={
                    "GF_SERVER_HTTP_ADDR": "127.0.0.1",
                    "GF_PATHS_DATA": f"/data/{DATA[2]}",
                    "GF_PATHS_PROVISIONING": f"{HERE}/grafana/provisioning",
                    "GF_SECURITY_ADMIN_PASSWORD": "${GRAFANA_PASSWORD:?set it to a secret, or keep .env}",
                    "GF_USERS_ALLOW_SIGN_UP": "false",
                    "GF_ANALYTICS_REPORTING_ENABLED": "false",
                    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
                    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
                },
            ),
        },
    }


def data_source(settings: Monitoring) -> dict[str, Any]:
    """Grafana's provisioning of the Prometheus beside it."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "uid": SOURCE,
                "type": "prometheus",
                "access": "proxy",
                "url": "http://127.0.0.1:9090",
                "isDefault": True,
                "jsonData": {"timeInterval": f"{settings.interval_s}s"},
            }
        ],
    }


def dashboards() -> dict[str, Any]:
    """Grafana's provisioning of the dashboards in the folder."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "type": "file",
                "options": {"path": f"{HERE}/grafana/dashboards"},
                "allowUiUpdates": False,
            }
        ],
    }


def _service(name: str, **settings: Any) -> dict[str, Any]:
    return {
        "image": IMAGES[name],
        "network_mode": "host",
        "restart": "unless-stopped",
        "user": "${FULLDECK_USER:?the number of the user that this folder belongs to}",
        "volumes": [f".:{HERE}:ro", f"./data/{name}:/data/{name}"],
        **settings,
    }
