"""The rules on planted samples, by promtool's own unit tests: what fires, and above all what does not."""

from pathlib import Path
from typing import Any

import pytest

from fulldeck.monitoring.recording import SECONDS
from fulldeck.monitoring.rules import objective, rules
from fulldeck.monitoring.scaling import HIGH, LOW, WATCHDOG
from fulldeck.monitoring.settings import Monitoring
from fulldeck.monitoring.stack import to_yaml

from .services import program, said

INTERVAL = 5
TARGET = 'job="fulldeck",instance="one:1"'
LABELS = f'{{{TARGET},model="m"}}'
IDLE = {
    f"up{{{TARGET}}}": "1x12",
    f"fulldeck_devices{LABELS}": "1x12",
    "fulldeck_utilisation_ratio" + LABELS.replace("model", 'device="cpu",model'): "0.1x12",
    f"fulldeck_queue_wait_seconds_total{LABELS}": "0x12",
    f"fulldeck_engine_busy_seconds_total{LABELS}": "0+0.5x12",
    f"fulldeck_replicas_ready{LABELS}": "2x12",
}
"""Two replicas that have little to do, for a minute."""
UP, DEVICES, UTILISATION, WAITED, BUSY, READY = IDLE
GPU = UTILISATION.replace("cpu", "gpu0")


def fires(folder: Path, series: dict[str, str], alert: str, seconds: float) -> int:
    """Whether `alert` fires at that time: 1 or 0."""
    return fire(folder, [(series, alert, seconds)])[0]


def fire(folder: Path, cases: list[tuple[dict[str, str], str, float]], interval: int = INTERVAL) -> list[int]:
    """For each (series, alert, seconds) how many alerts of that name fire then, all asked at once."""
    (folder / "rules.yml").write_text(to_yaml(rules(Monitoring(interval_s=interval))))
    groups: dict[str, dict[str, Any]] = {}
    places: dict[str, list[int]] = {}
    for place, (series, alert, seconds) in enumerate(cases):
        key = str(series)
        group = groups.setdefault(
            key,
            {
                "interval": f"{interval}s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [],
            },
        )
        # A value that never is expected, so that promtool tells which one is.
        group["promql_expr_test"].append(
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                "eval_time": f"{int(1000 * seconds)}ms",
                "exp_samples": [{"labels": "{}", "value": -1}],
            }
        )
        places.setdefault(key, []).append(place)
    tests = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": f"{interval}s",
        "tests": list(groups.values()),
    }
    (folder / "tests.yml").write_text(to_yaml(tests))
    found = said(program("promtool"), "test", "rules", folder / "tests.yml", fails=True)
    values = [
        int(float(line.split("{}")[1].split('"')[0]))
        for line in found.splitlines()
        if line.strip().startswith("got:")
    ]
    assert len(values) == len(cases), found
    order = [place for key in groups for place in places[key]]
    return [values[order.index(place)] for place in range(len(cases))]


def test_three_low_samples_fire_and_two_do_not(tmp_path: Path) -> None:
    """The specification's rule: samples at 0, 5 and 10 s are three."""
    moments = [0, 4, 5, 9, 10, 14, 30]
    assert fire(tmp_path, [(IDLE, LOW, moment) for moment in moments]) == [0, 0, 0, 0, 1, 1, 1]


def test_a_sample_that_is_not_low_starts_the_count_anew(tmp_path: Path) -> None:
    series = IDLE | {UTILISATION: "0.1 0.1 0.3 0.1 0.1 0.1 0.29"}
    moments = [10, 15, 20, 25, 30]
    assert fire(tmp_path, [(series, LOW, moment) for moment in moments]) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "changed",
    [
        {UTILISATION: "0.1 0.1 _ 0.1 0.1 _ 0.1 0.1 _ 0.1 0.1 _"},
        {UTILISATION: "0.1 0.1 stale 0.1 0.1 stale 0.1 0.1 stale 0.1 0.1 stale"},
        {UTILISATION: ""},
        {UP: "0x12"},
        {UP: ""},
        {DEVICES: ""},
        {DEVICES: "2x12"},
        {DEVICES: "2x12", GPU: "0.1 0.1 stale"},
        {DEVICES: "2x12", GPU: "0.9x12"},
        {WAITED: "0+5x12"},
        {WAITED: ""},
        {BUSY: "0+5x12"},
        {BUSY: ""},
        {READY: "0x12"},
        {READY: ""},
    ],
    ids=lambda changed: " ".join(f"{name.partition('{')[0]}={values}" for name, values in changed.items()),
)
def test_missing_data_or_one_signal_that_differs_never_fires(tmp_path: Path, changed: dict[str, str]) -> None:
    series = {name: values for name, values in (IDLE | changed).items() if values}
    assert not any(fire(tmp_path, [(series, LOW, moment) for moment in range(5, 60, 5)]))


def test_all_devices_low_fires(tmp_path: Path) -> None:
    assert fires(tmp_path, IDLE | {DEVICES: "2x12", GPU: "0.2x12"}, LOW, 30) == 1


def test_an_exporter_that_dies_stops_the_alert(tmp_path: Path) -> None:
    series = {
        name: " ".join(["0.1"] * 4 + ["stale"]) if name == UTILISATION else it for name, it in IDLE.items()
    }
    assert fire(tmp_path, [(series, LOW, moment) for moment in (15, 20, 25)]) == [1, 0, 0]


def test_full_replicas_and_a_queue_fire_the_other_alert(tmp_path: Path) -> None:
    full = IDLE | {UTILISATION: "0.9x12", BUSY: "0+9x12", WAITED: "0+50x12"}
    assert fire(tmp_path, [(full, HIGH, 30), (full, LOW, 30), (IDLE, HIGH, 30)]) == [1, 0, 0]
    assert fires(tmp_path, full | {WAITED: "0x12"}, HIGH, 30) == 0


def requests(bad: float, slow: float) -> dict[str, str]:
    """Ten requests a second for two hours, of which shares fail, and are slow."""
    asked = f'{TARGET},model="m",route="infer"'
    answered = 1200 * (1 - bad)
    return {
        f'fulldeck_requests_total{{{asked},status="200"}}': f"0+{answered}x60",
        f'fulldeck_requests_total{{{asked},status="503"}}': f"0+{1200 * bad}x60",
        f"fulldeck_request_duration_seconds_count{{{asked}}}": f"0+{answered}x60",
        f'fulldeck_request_duration_seconds_bucket{{{asked},le="0.1"}}': f"0+{answered * (1 - slow)}x60",
    }


def test_budgets_burn_by_how_fast_they_are_spent(tmp_path: Path) -> None:
    """Budgets are 0.1 % of requests and 1 % of answers: within them nothing, then a ticket, a page, one at once."""
    shares = [(0.0, 0.0), (0.0005, 0.005), (0.002, 0.02), (0.007, 0.07), (0.02, 0.2)]
    cases = [
        (requests(*one), f"Fulldeck{kind}BudgetBurn", 7200.0)
        for one in shares
        for kind in ("Error", "Latency")
    ]
    assert fire(tmp_path, cases, interval=120) == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_who_is_refused_for_want_of_room_counts_and_who_asks_wrongly_does_not(tmp_path: Path) -> None:
    def refused(status: int, route: str = "refused") -> dict[str, str]:
        name = f'fulldeck_requests_total{{{TARGET},model="m",route="{route}",status="{status}"}}'
        return requests(0.0, 0.0) | {name: "0+120x60"}

    cases = [(refused(status), "FulldeckErrorBudgetBurn", 7200.0) for status in (429, 401, 404, 413)]
    cases.append((refused(429, "rate_limited"), "FulldeckErrorBudgetBurn", 7200.0))
    assert fire(tmp_path, cases, interval=120) == [3, 0, 0, 0, 0]


def test_a_burst_of_errors_that_is_over_pages_nobody(tmp_path: Path) -> None:
    """The short window: what has stopped burning is no emergency."""
    asked = f'{TARGET},model="m",route="infer"'
    burst = {
        f'fulldeck_requests_total{{{asked},status="200"}}': "0+600x20",
        f'fulldeck_requests_total{{{asked},status="503"}}': "0+200x5 1000x15",
    }
    series = [(burst, "FulldeckErrorBudgetBurn", seconds) for seconds in (300.0, 900.0)]
    during, after = fire(tmp_path, series, interval=60)
    assert during >= 1
    assert after <= 1, "the half hour may still count it, the five minutes do not"


def test_what_is_broken_is_told(tmp_path: Path) -> None:
    long = {name: values.replace("x12", "x100") for name, values in IDLE.items()}
    restarts = {f"fulldeck_engine_restarts_total{LABELS}": "0+1x100"}
    wanted = {f"fulldeck_replicas_wanted{LABELS}": "3x100"}
    cases = {
        "FulldeckDown": long | {UP: "0x100"},
        "FulldeckUtilisationUnknown": long | {DEVICES: "2x100"},
        "FulldeckUtilisationContradicts": long | {UTILISATION: "0x100", BUSY: "0+36x100"},
        "FulldeckReplicasMissing": long | wanted,
        "FulldeckEngineRestarts": long | restarts,
    }
    asked = [(series, alert, 400.0) for alert, series in cases.items()]
    gone = {name: values for name, values in long.items() if name != UTILISATION}
    asked.append((gone, "FulldeckUtilisationUnknown", 400.0))
    assert fire(tmp_path, asked, interval=20) == [1] * len(asked)
    assert fire(tmp_path, [(long, alert, 400.0) for alert in cases], interval=20) == [0] * len(cases)


def test_the_watchdog_always_fires(tmp_path: Path) -> None:
    assert fires(tmp_path, {}, WATCHDOG, 60) == 1


def test_the_objective_is_a_bound_of_the_histogram() -> None:
    for milliseconds in (1, 100, 101, 30_000):
        bound = objective(Monitoring(latency_ms=milliseconds))
        assert bound in SECONDS
        assert bound >= milliseconds / 1000
