"""One Deployment of a cluster of Kubernetes, as far as its scale subresource: no cluster runs where tests do.

What it answers is as the API's reference has it (autoscaling/v1 Scale); its pods are real servers, which Prometheus
finds by a file. What a real cluster makes of it was not seen.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from tests.serving.servers import Server

NAME, NAMESPACE = "work", "models"
PLACE = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}/scale"


class SmallCluster:
    """`pods` servers, each made by `pod`; their addresses are in `targets`. `status` other than 200 refuses."""

    def __init__(self, pod: Callable[[], Server], pods: int, targets: Path) -> None:
        self.pod = pod
        self.targets = targets
        self.pods: list[Server] = []
        self.asked: list[int] = []
        self.status = 200
        self._lock = Lock()
        self._resize(pods)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and content."""
        if self.status != 200 or path != PLACE:
            code = 404 if self.status == 200 else self.status
            return code, {"kind": "Status", "status": "Failure", "code": code, "message": f"code {code}"}
        with self._lock:
            if method == "PATCH":
                self.asked.append(json.loads(body)["spec"]["replicas"])
                self._resize(self.asked[-1])
            return 200, {
                "kind": "Scale",
                "apiVersion": "autoscaling/v1",
                "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": {"replicas": len(self.pods)},
                "status": {"replicas": len(self.pods)},
            }

    def _resize(self, pods: int) -> None:
        while len(self.pods) < pods:
            self.pods.append(self.pod())
        leaving, self.pods = self.pods[pods:], self.pods[:pods]
        new = self.targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": [f"127.0.0.1:{one.port}" for one in self.pods]}]))
        new.rename(self.targets)
        for one in leaving:
            end(one)

    def end(self) -> None:
        """End all pods."""
        for one in self.pods:
            end(one)


def end(server: Server) -> None:
    server.process.terminate()
    server.process.communicate(timeout=30)


@contextlib.contextmanager
def small_cluster(folder: Path, pod: Callable[[], Server], pods: int) -> Iterator[tuple[SmallCluster, Path]]:
    """The cluster, and the kubeconfig that names it."""
    cluster = SmallCluster(pod, pods, folder / "targets.json")

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = cluster.answer(self.command, self.path, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PATCH = _answer  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    try:
        yield cluster, path
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        cluster.end()
