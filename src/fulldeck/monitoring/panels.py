"""The one list of panels: Grafana's dashboards and the live page show the same, from these lines.

A line has a query for Prometheus and the path of the same figure in a reading that the live page is fed with.
`$model` stands for the model's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["ratio", "bytes", "bytes_per_second", "per_second", "seconds", "mean", "whole", "plain"]
"""Of a figure; `mean` is a mean number of things, `whole` a number of them, `plain` may be below 0."""


@dataclass(frozen=True)
class Line:
    """One curve, or one for each device where the figure is of devices."""

    legend: str
    query: str
    figure: str
    """Key of a reading; `devices.KEY` is that of each of its devices."""


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    unit: Unit
    lines: tuple[Line, ...]
    says: str


def _quantile(share: float) -> str:
    return (
        f"histogram_quantile({share}, sum by (le) "
        '(rate(fulldeck_request_duration_seconds_bucket{model="$model"}[$__rate_interval])))'
    )


def _rate(metric: str, extra: str = "") -> str:
    return f'sum(rate({metric}{{model="$model"{extra}}}[$__rate_interval]))'


_UTILISATION = Panel(
    "Utilisation",
    "ratio",
    (
        Line(
            "{{device}}",
            'avg by (device) (fulldeck_utilisation_ratio{model="$model"})',
            "devices.utilisation",
        ),
    ),
    "Of a GPU the share of time in which a kernel ran, of the CPU the share of the cores that the processes may use.",
)
_BANDWIDTH = Panel(
    "Memory bandwidth",
    "bytes_per_second",
    (
        Line(
            "{{device}}",
            """\
sum by (device) (fulldeck_memory_bandwidth_bytes_per_second{model="$model"})
or label_replace(
  sum by (device) (fulldeck_memory_bandwidth_estimated_bytes_per_second{model="$model"}),
  "device", "$1, estimated", "device", "(.*)"
)""",
            "devices.bandwidth",
        ),
    ),
    "Bytes to and from memory: counted by hardware that does so, of all that runs on it; else estimated.",
)
_MEMORY = Panel(
    "Memory",
    "bytes",
    (
        Line(
            "{{device}}",
            'sum by (device) (fulldeck_memory_used_bytes{model="$model"})',
            "devices.memory",
        ),
    ),
    "In use: of a GPU by everybody, of the CPU by these processes.",
)

SERVER = (
    _UTILISATION,
    _BANDWIDTH,
    Panel(
        "Throughput",
        "per_second",
        (
            Line("samples", _rate("fulldeck_samples_total"), "samples"),
            Line(
                "requests",
                _rate("fulldeck_requests_total", ',route=~"infer|predict"'),
                "requests",
            ),
        ),
        "Rows that the model answered, and requests.",
    ),
    Panel(
        "Latency",
        "seconds",
        (
            Line("P50", _quantile(0.5), "p50"),
            Line("P90", _quantile(0.9), "p90"),
            Line("P99", _quantile(0.99), "p99"),
        ),
        "From a request's complete arrival to its answer, of answers below 400.",
    ),
    Panel(
        "Queue",
        "mean",
        (Line("waiting", _rate("fulldeck_queue_wait_seconds_total"), "queue"),),
        "Requests that wait for an engine process, the mean.",
    ),
    Panel(
        "Replicas",
        "whole",
        (
            Line("ready", 'sum(fulldeck_replicas_ready{model="$model"})', "replicas_ready"),
            Line("wanted", 'sum(fulldeck_replicas_wanted{model="$model"})', "replicas_wanted"),
        ),
        "Engine processes that take requests, and that there should be.",
    ),
    Panel(
        "Busy time of replicas",
        "ratio",
        (
            Line(
                "busy",
                f"{_rate('fulldeck_engine_busy_seconds_total')} / "
                'clamp_min(sum(fulldeck_replicas_ready{model="$model"}), 1)',
                "busy",
            ),
        ),
        "Share of their time that engine processes work on a batch.",
    ),
    Panel(
        "Rows of a batch",
        "mean",
        (
            Line(
                "mean",
                f"{_rate('fulldeck_batch_rows_sum')} / {_rate('fulldeck_batch_rows_count')}",
                "batch_rows",
            ),
        ),
        "Rows that one call of the engine computed together.",
    ),
    Panel(
        "Errors",
        "per_second",
        (
            Line(
                "429 and 5xx",
                _rate("fulldeck_requests_total", ',route!="rate_limited",status=~"429|5.."'),
                "errors",
            ),
        ),
        "Requests that the server refused for want of room, or failed.",
    ),
    _MEMORY,
)

TRAINING = (
    _UTILISATION,
    replace(_BANDWIDTH, says=f"{_BANDWIDTH.says[:-1]}, where the recipe has performance_dashboard."),
    Panel(
        "Throughput",
        "per_second",
        (Line("samples", _rate("fulldeck_training_samples_total"), "samples"),),
        "Samples that the training took.",
    ),
    Panel(
        "Time of a step",
        "seconds",
        tuple(
            Line(
                f"P{share * 100:.0f}",
                f"histogram_quantile({share}, sum by (le) "
                '(rate(fulldeck_training_step_duration_seconds_bucket{model="$model"}[$__rate_interval])))',
                f"p{share * 100:.0f}",
            )
            for share in (0.5, 0.9, 0.99)
        ),
        "From one batch to the next.",
    ),
    Panel(
        "Loss",
        "plain",
        (Line("loss", 'fulldeck_training_loss{model="$model"}', "loss"),),
        "Of the last step that was read, or the mean of the last epoch.",
    ),
    Panel(
        "Validation",
        "plain",
        (Line("{{metric}}", 'fulldeck_training_validation{model="$model"}', "validation"),),
        "Loss and metrics on validation data, at the last epoch's end.",
    ),
    _MEMORY,
)
