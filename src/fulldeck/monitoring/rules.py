"""Recording and alerting rules of Prometheus.

Scale-in needs all of: `samples` consecutive samples of every device, each low; a target that is up; no queue;
replicas that say themselves that they have little to do. One missing sample, or one signal that differs, and
nothing fires. Error budgets burn by the multi-window rules of the Site Reliability Workbook, chapter 5.
"""

from __future__ import annotations

from typing import Any

from fulldeck.monitoring.recording import SECONDS, bucket
from fulldeck.monitoring.scaling import FULL, HIGH, LINE, LOW, WATCHDOG
from fulldeck.monitoring.settings import Monitoring

Rule = dict[str, Any]

BURNS = (
    ("page", 14.4, "1h", "5m", "2m"),
    ("page", 6.0, "6h", "30m", "15m"),
    ("ticket", 1.0, "3d", "6h", "1h"),
)
"""Severity, rate of burning, long and short window, and how long it must last."""
_WINDOWS = ("5m", "30m", "1h", "6h", "3d")
_BY = "by (job, model)"
_EACH = "by (job, instance, model)"
# Who is refused for want of room is so before its body is read; who is for its own fault does not count, nor who is
# over its own rate: that is a route of its own, rate_limited.
_ASKED = 'route=~"infer|predict|refused",status!~"40[13458]|413|431"'
_UTILISATION = "fulldeck_utilisation_ratio"
_WAITED = "fulldeck_queue_wait_seconds_total"
_SHARES = {
    "Error": ("model:fulldeck_errors:ratio_rate", "of requests end with 429 or 5xx"),
    "Latency": ("model:fulldeck_slow:ratio_rate", "of answers take too long"),
}


def rules(settings: Monitoring) -> dict[str, Any]:
    """The content of rules.yml."""
    return {
        "groups": [
            {
                "name": "fulldeck_shares",
                "rules": [rule for window in _WINDOWS for rule in _shares(settings, window)],
            },
            {"name": "fulldeck_budgets", "rules": _budgets(settings)},
            {"name": "fulldeck_scaling", "rules": _scaling(settings)},
            {"name": "fulldeck_health", "rules": _health(settings)},
        ]
    }


def objective(settings: Monitoring) -> float:
    """The bound of the latency histogram, in seconds, that the objective comes to: the next one up."""
    return next(bound for bound in SECONDS if bound >= settings.latency_ms / 1000)


def _shares(settings: Monitoring, window: str) -> list[Rule]:
    asked = f"sum {_BY} (rate(fulldeck_requests_total{{{_ASKED}}}[{window}]))"
    failed = f'sum {_BY} (rate(fulldeck_requests_total{{{_ASKED},status=~"429|5.."}}[{window}]))'
    duration = "fulldeck_request_duration_seconds"
    answered = f"sum {_BY} (rate({duration}_count[{window}]))"
    fast = f'sum {_BY} (rate({duration}_bucket{{le="{bucket(objective(settings))}"}}[{window}]))'
    return [
        {
            "record": f"model:fulldeck_errors:ratio_rate{window}",
            "expr": f"({failed} or 0 * {asked}) / {asked}",
        },
        {"record": f"model:fulldeck_slow:ratio_rate{window}", "expr": f"1 - {fast} / {answered}"},
    ]


def _budgets(settings: Monitoring) -> list[Rule]:
    budgets = {"Error": 1 - settings.served_share, "Latency": 1 - settings.fast_share}
    return [
        {
            "alert": f"Fulldeck{kind}BudgetBurn",
            "expr": " and ".join(
                f"{_SHARES[kind][0]}{window} > {factor:g} * {budget:.6g}" for window in (long, short)
            ),
            "for": lasting,
            "labels": {"severity": severity, "window": long},
            "annotations": {
                "summary": f"{{{{ $labels.model }}}}: {{{{ $value | humanizePercentage }}}} {_SHARES[kind][1]}",
                "description": f"Over {long} and {short}: more than {factor:g} times the share that may, {budget:.3g}.",
            },
        }
        for kind, budget in budgets.items()
        for severity, factor, long, short, lasting in BURNS
    ]


def _scaling(settings: Monitoring) -> list[Rule]:
    window, two = (_span(settings, samples) for samples in (settings.samples, 2))
    low = f"{settings.low_utilisation:g}"
    return [
        {
            "alert": LOW,
            "expr": "\n".join(
                (
                    f"max {_EACH} (max_over_time({_UTILISATION}[{window}])) < {low}",
                    f"and min {_EACH} (count_over_time({_UTILISATION}[{window}])) >= {settings.samples}",
                    f"and count {_EACH} ({_UTILISATION}) == max {_EACH} (fulldeck_devices)",
                    "and on (job, instance) (up == 1)",
                    f"and max {_EACH} (rate({_WAITED}[{window}])) < {LINE}",
                    f"and {_busy(window)} < {low}",
                )
            ),
            "labels": {"severity": "scale"},
            "annotations": {
                "summary": f"{{{{ $labels.model }}}}: utilisation is {{{{ $value | humanizePercentage }}}}, under "
                f"{settings.low_utilisation:.0%} in {settings.samples} samples",
            },
        },
        {
            "alert": HIGH,
            "expr": f"{_busy(two)} >= {FULL}\nand max {_EACH} (rate({_WAITED}[{two}])) >= {LINE}",
            "labels": {"severity": "scale"},
            "annotations": {"summary": "{{ $labels.model }}: replicas are full and requests wait"},
        },
    ]


def _span(settings: Monitoring, samples: int) -> str:
    """A window that holds so many samples and never one more: a millisecond less than their intervals."""
    return f"{1000 * settings.interval_s * samples - 1}ms"


def _busy(window: str) -> str:
    """Share of their time that replicas work, by their own count."""
    busy = f"sum {_EACH} (rate(fulldeck_engine_busy_seconds_total[{window}]))"
    return f"{busy} / sum {_EACH} (fulldeck_replicas_ready > 0)"


def _health(settings: Monitoring) -> list[Rule]:
    window = _span(settings, 2 * settings.samples)
    return [
        {
            "alert": WATCHDOG,
            "expr": "vector(1)",
            "labels": {"severity": "none"},
            "annotations": {"summary": "Always fires: where it is not heard, no alert is"},
        },
        _alert("Down", 'up{job=~"fulldeck.*"} == 0', "1m", "page", "{{ $labels.instance }} does not answer"),
        _alert(
            "UtilisationUnknown",
            f'up{{job="fulldeck"}} == 1 unless on (job, instance) {_UTILISATION}\n'
            f"or max {_EACH} (fulldeck_devices) > count {_EACH} ({_UTILISATION})",
            "5m",
            "ticket",
            "{{ $labels.instance }} does not know the utilisation of all its devices, so nothing scales in",
        ),
        _alert(
            "UtilisationContradicts",
            f"max {_EACH} (max_over_time({_UTILISATION}[{window}])) == 0\n"
            f"and {_busy(window)} > {settings.low_utilisation:g}",
            "1m",
            "ticket",
            "{{ $labels.model }}: a utilisation of 0 is told while replicas work; what tells it is broken",
        ),
        _alert(
            "ReplicasMissing",
            "fulldeck_replicas_ready < fulldeck_replicas_wanted",
            "5m",
            "page",
            "{{ $labels.model }}: {{ $value }} replicas are ready, fewer than wanted",
        ),
        _alert(
            "EngineRestarts",
            "increase(fulldeck_engine_restarts_total[10m]) > 3",
            "0s",
            "ticket",
            "{{ $labels.model }}: engine processes keep dying",
        ),
    ]


def _alert(name: str, expr: str, lasting: str, severity: str, summary: str) -> Rule:
    return {
        "alert": f"Fulldeck{name}",
        "expr": expr,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
