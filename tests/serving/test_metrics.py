"""What /metrics says of real servers, and who may read it."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from fulldeck.serving.metrics import ServerMetrics

from .packages import rows_package, sum_package
from .servers import Server, eventually, meanwhile, running


def scrape(server: Server, token: str = "") -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) to the value, as Prometheus reads the page."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/metrics")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        page = response.read().decode()
    return {
        (
            sample.name,
            *(sample.labels[name] for name in sorted(sample.labels) if name != "model"),
        ): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_everything_is_counted(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package")) as server:
        for _ in range(7):
            server.infer("sums", [1, 2, 3])
        server.ask("POST", "/predict", {"items": [[1, 2, 3], [4, 5, 6]]})
        server.ask("POST", "/predict", {"wrong": 1})
        server.ask("GET", "/nothing")
        found = scrape(server)
        assert found["fulldeck_requests_total", "infer", "200"] == 7
        assert found["fulldeck_requests_total", "predict", "200"] == 1
        assert found["fulldeck_requests_total", "predict", "400"] == 1
        assert found["fulldeck_requests_total", "refused", "404"] == 1
        assert found["fulldeck_request_duration_seconds_count", "infer"] == 7
        assert found["fulldeck_request_duration_seconds_count", "predict"] == 1, "of answers below 400"
        assert found["fulldeck_samples_total",] == 9
        assert found["fulldeck_batch_rows_count",] == 8
        assert 0 < found["fulldeck_engine_busy_seconds_total",] < 8
        assert found["fulldeck_replicas_ready",] == found["fulldeck_replicas_wanted",] == 1
        assert found["fulldeck_queue_requests",] == 0
        eventually(lambda: ("fulldeck_utilisation_ratio", "cpu") in scrape(server))
        found = scrape(server)
        assert 0 <= found["fulldeck_utilisation_ratio", "cpu"] <= 1
        assert found["fulldeck_memory_used_bytes", "cpu"] > 10**7
        assert ("fulldeck_memory_bandwidth_estimated_bytes_per_second", "cpu") in found


FAILS_ONCE = """
import sys
import tracemalloc
from fulldeck.cli import main
from fulldeck.serving.meter import Meter
read, fails = Meter.read, [OSError("no such sensor")]
def reading(meter):
    if fails:
        raise fails.pop()
    return read(meter)
Meter.read = reading
main(["serve", sys.argv[1], "--port", "0", "--json"])
"""


def test_a_reading_that_fails_is_logged_and_the_next_one_comes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FAILS_ONCE, str(sum_package(tmp_path / "package"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    server = Server(process, int(url.rsplit(":", 1)[1]), False)
    try:
        eventually(lambda: ("fulldeck_utilisation_ratio", "cpu") in scrape(server))
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert "Monitor.run failed; it goes on" in errors
    assert "no such sensor" in errors


def test_nothing_is_lost_with_an_engine_process(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package")) as server:
        for _ in range(5):
            server.infer("sums", [1, 2, 3])
        os.kill(server.workers[0], signal.SIGKILL)
        eventually(lambda: server.infer("sums", [1, 2, 3])[0] == 200)
        found = scrape(server)
        assert found["fulldeck_samples_total",] == 6
        assert found["fulldeck_engine_restarts_total",] == 1


def test_time_that_is_still_going_on_counts(tmp_path: Path) -> None:
    """A long batch, and jobs that wait behind it, are seen before they are over."""
    with running(rows_package(tmp_path / "package")) as server, meanwhile() as call, server.stopped():
        asked = [call(server.infer, "rows", [1, 2, 3])]
        eventually(lambda: scrape(server)["fulldeck_engine_busy_seconds_total",] > 0)
        asked += [call(server.infer, "rows", [1, 2, 3]) for _ in range(3)]
        eventually(lambda: scrape(server)["fulldeck_queue_requests",] == 3)
        one = scrape(server)
        eventually(
            lambda: (
                scrape(server)["fulldeck_queue_wait_seconds_total",]
                > one["fulldeck_queue_wait_seconds_total",]
            )
        )
        two = scrape(server)
        assert two["fulldeck_engine_busy_seconds_total",] > one["fulldeck_engine_busy_seconds_total",]
        os.kill(server.workers[0], signal.SIGCONT)
        assert {one.result()[0] for one in asked} == {200}


def test_a_token_guards_the_metrics_and_the_events(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package"), FULLDECK_TOKEN="secret") as server:
        for path in ("/metrics", "/ui/events"):
            assert server.ask("GET", path)[0] == 401
        assert scrape(server, "secret")["fulldeck_requests_total", "refused", "401"] == 2


def test_a_server_that_nobody_scrapes_keeps_no_values() -> None:
    metrics = ServerMetrics("sums")
    tracemalloc.start()
    for number in range(100_000):
        metrics.batch(1 + number % 8)
        metrics.answered("infer", 200, 0.001)
        if number % 1000 == 999:
            metrics.settle()  # as the meter does each second
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000, "8 bytes for each of 200,000 values would be five times that"
    assert metrics.batches.value == 100_000
    assert metrics.batch_rows.cumulative()[0][-1][1] == 100_000
