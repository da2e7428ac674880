"""`fulldeck scale`: pods by load, from a real Prometheus that scrapes real servers, by the scale subresource."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fulldeck.monitoring.settings import Monitoring
from tests.serving.packages import work_package
from tests.serving.servers import eventually, start

from .live_stack import LiveStack, free_port
from .services import program
from .small_cluster import NAME, NAMESPACE, SmallCluster, small_cluster

SECONDS = 90.0
LOOK = 6
"""Questions to Prometheus of one look."""
SCALE = [sys.executable, "-m", "fulldeck", "scale", NAME, "--namespace", NAMESPACE, "--model", "work"]


def scale(prometheus: str, kubeconfig: Path | None, *more: str) -> subprocess.CompletedProcess[str]:
    config = str(kubeconfig) if kubeconfig else "/dev/null/none"
    return subprocess.run(
        [*SCALE, "--prometheus", prometheus, *more],
        env=os.environ | {"KUBECONFIG": config},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, f"error: there is no deployment {NAME} in namespace {NAMESPACE}"),
        (403, "give this account read on deployments/scale"),
        (500, "the cluster answers 500: code 500"),
    ],
)
def test_what_the_cluster_refuses_is_said(tmp_path: Path, status: int, words: str) -> None:
    with small_cluster(tmp_path, lambda: start(tmp_path), 0) as (cluster, config):
        cluster.status = status
        done = scale("http://127.0.0.1:1", config)
    assert done.returncode == (1 if status == 500 else 2)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_cluster_or_a_prometheus_it_says_which(tmp_path: Path) -> None:
    done = scale("http://127.0.0.1:1", None)
    assert done.returncode == 2
    assert "no cluster is known here, neither by a pod's account nor by a kubeconfig" in done.stderr
    with small_cluster(tmp_path, lambda: start(tmp_path), 0) as (_, config):
        done = scale(f"http://127.0.0.1:{free_port()}", config)
        assert done.returncode == 1
        assert "error: Prometheus at http://127.0.0.1" in done.stderr
        server = json.loads(config.read_text())["clusters"][0]["cluster"]["server"]
        done = scale(server, config)
        assert done.returncode == 2
        assert "does not answer as Prometheus does" in done.stderr
        done = scale(server, config, "--replicas", "4:1")
        assert done.returncode == 2
        assert "write 1:4" in done.stderr


class Overloaded(BaseHTTPRequestHandler):
    """A Prometheus that answers the first look, and then is asked too much."""

    answers = 0

    def do_GET(self) -> None:
        Overloaded.answers += 1
        self.send_response(200 if Overloaded.answers <= LOOK else 503)
        self.end_headers()
        self.wfile.write(b'{"data": {"result": []}}')

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_prometheus_that_has_no_answer_now_ends_nothing(tmp_path: Path) -> None:
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Overloaded) as prometheus,
        small_cluster(tmp_path, lambda: start(tmp_path), 0) as (cluster, config),
    ):
        threading.Thread(target=prometheus.serve_forever).start()
        url = f"http://127.0.0.1:{prometheus.server_address[1]}"
        process = subprocess.Popen(
            [*SCALE, "--prometheus", url, "--interval", "0.1"],
            env=os.environ | {"KUBECONFIG": str(config)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            for _ in range(2):  # it says so, and looks again
                assert "does not answer now: HTTP Error 503" in process.stderr.readline()
        finally:
            process.terminate()
            process.communicate(timeout=30)
            prometheus.shutdown()
        assert cluster.asked == []


@contextmanager
def scaling(folder: Path, pods: int) -> Iterator[tuple[SmallCluster, LiveStack]]:
    """Pods, Prometheus and the command; the list is of the command's decisions."""
    package = work_package(folder / "package", workers=1, max_batch=1)
    stack = LiveStack(folder / "monitoring", Monitoring(interval_s=1))
    with small_cluster(folder, lambda: start(package, FULLDECK_TOKEN=stack.token), pods) as (cluster, config):
        pods_by_file = {"files": [str(cluster.targets)], "refresh_interval": "1s"}
        job = {
            "job_name": "fulldeck",
            "authorization": {"credentials_file": "token"},
            "file_sd_configs": [pods_by_file],
        }
        settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        (stack.folder / "prometheus.yml").write_text(json.dumps(settings))
        stack.start("prometheus")
        fast = ["--interval", "1", "--cooldown", "2", "--json"]
        process = subprocess.Popen(
            [*SCALE, "--prometheus", f"http://{stack.address('prometheus')}", "--replicas", "1:2", *fast],
            env=os.environ | {"KUBECONFIG": str(config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield cluster, stack
            assert process.poll() is None, "what has ended decides nothing"
        finally:
            process.terminate()
            said, _ = process.communicate(timeout=30)
            stack.stop("prometheus")
        assert all(json.loads(line)["reason"] for line in said.splitlines())


def ask(cluster: SmallCluster, number: int, token: str) -> int:
    """The status of a request to one of the pods, as a service of the cluster would pass it on."""
    pod = cluster.pods[number % len(cluster.pods)]
    tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    return pod.ask("POST", "/v2/models/work/infer", {"inputs": [tensor]}, authorization=f"Bearer {token}")[0]


@pytest.mark.services
def test_load_falls_and_a_pod_goes_load_returns_and_it_comes(tmp_path: Path) -> None:
    program("prometheus")
    with scaling(tmp_path, 2) as (cluster, stack):
        eventually(lambda: cluster.asked == [1], SECONDS)
        ended = False
        statuses: list[int] = []

        def load(number: int) -> None:
            while not ended:
                try:
                    statuses.append(ask(cluster, number, stack.token))
                except (http.client.HTTPException, OSError):
                    statuses.append(0)

        clients = [threading.Thread(target=load, args=(number,)) for number in range(6)]
        for client in clients:
            client.start()
        try:
            eventually(lambda: cluster.asked == [1, 2], SECONDS)
        finally:
            ended = True
            for client in clients:
                client.join()
        assert set(statuses) == {200}


@pytest.mark.services
@pytest.mark.slow
def test_a_pod_that_is_not_seen_is_no_idle_one(tmp_path: Path) -> None:
    program("prometheus")
    with scaling(tmp_path, 2) as (cluster, stack):
        hidden = json.loads(cluster.targets.read_text())
        hidden[0]["targets"].pop()
        cluster.targets.write_text(json.dumps(hidden))
        eventually(lambda: stack.query("count(fulldeck_replicas_ready)") != [], SECONDS)
        time.sleep(12)
        assert cluster.asked == []
