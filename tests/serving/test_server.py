import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fulldeck.errors import BadInput
from fulldeck.package import seal
from fulldeck.serving import serve
from fulldeck.serving.server import is_loopback

from .packages import image_package, sum_package
from .servers import RUN, eventually, running, start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_without_a_traceback(tmp_path: Path, number: int) -> None:
    server = start(sum_package(tmp_path / "package", workers=2))
    workers = server.workers
    assert len(workers) == 2
    server.process.send_signal(number)
    _, errors = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert errors == ""
    assert not any(map(psutil.pid_exists, workers))


def test_killing_the_server_ends_its_engine_processes(tmp_path: Path) -> None:
    server = start(sum_package(tmp_path / "package"))
    (worker,) = server.workers
    os.kill(worker, signal.SIGSTOP)  # not even one that cannot read its socket outlives the server
    server.process.kill()
    server.process.communicate()
    eventually(
        lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE
    )


def test_a_running_request_is_finished_before_the_server_ends(tmp_path: Path) -> None:
    server = start(sum_package(tmp_path / "package"))
    body = b'{"input": [1, 2, 3]}'
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    idle = socket.create_connection(("127.0.0.1", server.port))
    busy = socket.create_connection(("127.0.0.1", server.port))
    with idle, busy, server.stopped():
        busy.sendall(head)
        assert busy.recv(1000).startswith(b"HTTP/1.1 100")
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(10) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        busy.sendall(body)
        for worker in server.workers:
            os.kill(worker, signal.SIGCONT)
        answer = busy.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b'{"value":6.0}')
        assert busy.recv(10) == b""
    server.process.communicate(timeout=30)
    assert server.process.returncode == 0


def test_the_api_process_imports_no_torch(tmp_path: Path) -> None:
    with running(image_package(tmp_path / "package")) as server:
        assert not server.imported_torch


def test_a_taken_port_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port} on 127.0.0.1 is taken; use another --port"):
            serve(sum_package(tmp_path / "package"), port=port)


def test_off_loopback_a_token_is_mandatory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = sum_package(tmp_path / "package")
    monkeypatch.delenv("FULLDECK_TOKEN", raising=False)
    with pytest.raises(BadInput, match="set FULLDECK_TOKEN"):
        serve(package, host="0.0.0.0", port=0)
    with running(package, "0.0.0.0", FULLDECK_TOKEN="secret") as server:
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.ask("GET", "/v2")[0] == 401
        assert server.ask("GET", "/v2", authorization="Bearer wrong")[0] == 401
        assert server.ask("GET", "/v2", authorization="Bearer secret")[0] == 200


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_token_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    monkeypatch.setenv("FULLDECK_TOKEN", empty)  # as of $(cat FILE) where the file is missing or empty
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,  # so that one that would start ends
        pytest.raises(BadInput, match="FULLDECK_TOKEN is set and empty, which protects nothing"),
    ):
        serve(sum_package(tmp_path / "package"), port=taken.getsockname()[1])


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.5", True), ("::1", True), ("localhost", True), ("::", False),
                                               ("", False), ("example.org", False)])  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_changed_package_is_refused(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package")
    model = package / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(BadInput, match=r"model\.onnx was changed"):
        serve(package, port=0)


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package")
    (package / "model.onnx").write_bytes(b"no model")
    seal(package, {})
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(package), "127.0.0.1", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "BadInput: ONNX Runtime cannot load model.onnx" in done.stderr
    assert done.stdout == ""


def test_a_burst_of_connections_waits_for_a_busy_server_and_is_answered(tmp_path: Path) -> None:
    request = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
    with running(sum_package(tmp_path / "package")) as server, contextlib.ExitStack() as opened:
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            # One that finds no place is tried again by the system after a second.
            burst = [
                opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=0.9))
                for _ in range(400)
            ]
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        for connection in burst:
            connection.settimeout(30)
            connection.sendall(request)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
