"""Another package takes the place of the one that is served, or does not."""

import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from .packages import lookup_package, sum_package
from .servers import Server, eventually, meanwhile, running
from .test_metrics import scrape

ADMIN = {"authorization": "Bearer admin"}
LOAD, UNLOAD = "/v2/repository/models/sums/load", "/v2/repository/models/sums/unload"


def index(server: Server) -> dict[str, Any]:
    status, (entry,) = server.ask("POST", "/v2/repository/index", **ADMIN)
    assert status == 200
    return entry


def put(package: Path, other: Path) -> None:
    """Another package in the place of `package`."""
    shutil.rmtree(package)
    other.rename(package)


def answer(server: Server) -> tuple[int, Any]:
    status, content = server.infer("sums", [1, 2, 3])
    return status, content["outputs"][0]["data"] if status == 200 else content


def test_only_the_administrator_may(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package")) as server:
        status, said = server.ask("POST", LOAD, **ADMIN)
        assert status == 403
        assert "FULLDECK_ADMIN_TOKEN" in said["error"]
    package = sum_package(tmp_path / "other")
    with running(package, FULLDECK_TOKEN="secret", FULLDECK_ADMIN_TOKEN="admin") as server:
        for given in ({}, {"authorization": "Bearer secret"}):
            assert [server.ask("POST", path, **given)[0] for path in (LOAD, UNLOAD)] == [401, 401]
        assert server.ask("GET", "/v2", **ADMIN)[0] == 200, "who may all may ask too"
        assert server.ask("POST", LOAD.replace("sums", "others"), **ADMIN)[0] == 404


def test_unloaded_and_loaded_again(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package"), FULLDECK_ADMIN_TOKEN="admin") as server:
        assert index(server) == {"name": "sums", "version": "1", "state": "READY"}
        assert server.ask("POST", UNLOAD, **ADMIN) == (200, {})
        assert index(server) == {"name": "sums", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        assert server.workers == []
        assert [answer(server)[0], server.ask("GET", "/v2/models/sums/ready")[0]] == [503, 503]
        assert server.ask("POST", "/v2/repository/index", {"ready": True}, **ADMIN) == (200, [])
        assert server.ask("POST", LOAD, **ADMIN) == (200, {})
        assert answer(server) == (200, [6])


def test_a_newer_package_takes_over_and_no_request_is_lost(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package")
    with running(package, FULLDECK_ADMIN_TOKEN="admin") as server, meanwhile(4) as call:
        (before,) = server.workers
        put(package, sum_package(tmp_path / "newer", workers=1, queue=99))
        loading = call(server.ask, "POST", LOAD, **ADMIN)
        statuses = []
        while not loading.done():
            statuses.append(answer(server))
        assert loading.result() == (200, {})
        assert set(map(str, statuses)) == {"(200, [6.0])"}
        eventually(lambda: len(server.workers) == 1)
        assert server.workers != [before]


def test_a_load_may_take_longer_than_a_request(tmp_path: Path) -> None:
    # No engine process starts within 50 ms.
    package = sum_package(tmp_path / "package", deadline_ms=50)
    with running(package, FULLDECK_ADMIN_TOKEN="admin") as server:
        before = server.workers
        assert server.ask("POST", LOAD, **ADMIN) == (200, {})
        eventually(lambda: len(server.workers) == 1 and server.workers != before)


def asked_and_left(server: Server, path: str, state: str) -> None:
    """Ask for it, and leave as soon as it has begun."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())
        eventually(lambda: index(server)["state"] == state)


def test_a_load_goes_on_without_who_asked_for_it(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package"), FULLDECK_ADMIN_TOKEN="admin") as server:
        (before,) = server.workers
        asked_and_left(server, LOAD, "LOADING")
        eventually(lambda: index(server)["state"] == "READY" and before not in server.workers)
        assert len(server.workers) == 1


def test_an_unload_goes_on_without_who_asked_for_it(tmp_path: Path) -> None:
    with (
        running(sum_package(tmp_path / "package"), FULLDECK_ADMIN_TOKEN="admin") as server,
        meanwhile(1) as call,
    ):
        with server.stopped():
            waiting = call(answer, server)
            eventually(lambda: scrape(server)["fulldeck_queue_wait_seconds_total",] > 0)
            asked_and_left(server, UNLOAD, "UNLOADING")
        assert waiting.result() == (200, [6])
        eventually(lambda: server.workers == [])
        eventually(lambda: index(server)["state"] == "UNAVAILABLE")


@pytest.mark.parametrize("wrong", ["damaged", "another"])
def test_what_is_wrong_is_not_loaded_and_the_old_one_stays(tmp_path: Path, wrong: str) -> None:
    package = sum_package(tmp_path / "package")
    with running(package, FULLDECK_ADMIN_TOKEN="admin") as server:
        if wrong == "damaged":
            content = (package / "model.onnx").read_bytes()
            (package / "model.onnx").write_bytes(content[:-1])
        else:
            put(package, lookup_package(tmp_path / "other"))
        status, said = server.ask("POST", LOAD, **ADMIN)
        assert status == 400
        assert ("was changed" if wrong == "damaged" else "has another model") in said["error"]
        assert answer(server) == (200, [6])
        assert index(server)["state"] == "READY"


def test_a_signal_loads_anew(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package")) as server:
        before = server.workers
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(server.workers) == 1 and server.workers != before)
        assert answer(server) == (200, [6])


def test_an_engine_process_that_dies_after_the_package_was_replaced_brings_the_new_one(
    tmp_path: Path,
) -> None:
    package = sum_package(tmp_path / "package")
    with running(package) as server:
        put(package, sum_package(tmp_path / "newer", queue=99))
        os.kill(server.workers[0], signal.SIGKILL)
        eventually(lambda: answer(server) == (200, [6]))


def test_tritonclient_lists_unloads_and_loads(tmp_path: Path) -> None:
    import tritonclient.http as client_module

    with running(sum_package(tmp_path / "package"), FULLDECK_ADMIN_TOKEN="admin") as server:
        client = client_module.InferenceServerClient(f"127.0.0.1:{server.port}")
        headers = {"Authorization": "Bearer admin"}
        assert client.get_model_repository_index(headers=headers)[0]["state"] == "READY"
        client.unload_model("sums", headers=headers)
        assert not client.is_model_ready("sums")
        client.load_model("sums", headers=headers)
        assert client.is_model_ready("sums")
        client.close()


def test_a_package_that_does_not_answer_as_it_says_is_not_loaded(tmp_path: Path) -> None:
    import numpy as np

    from fulldeck.package import seal
    from fulldeck.package.reference import write_reference

    package = sum_package(tmp_path / "package")
    rows = {"input": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}
    with running(package, FULLDECK_ADMIN_TOKEN="admin") as server:
        for outputs, expected in (([[6], [15]], 200), ([[6], [15.1]], 400)):
            said = {"onnxruntime-fp32": {"output": np.array(outputs, np.float32)}}
            write_reference(package, rows, said)
            seal(package, {"name": "sums"})
            status, content = server.ask("POST", LOAD, **ADMIN)
            assert status == expected
        assert "does not answer as it did where it was packaged" in content["error"]
        assert "differs by 0.1" in content["error"]
        assert answer(server) == (200, [6])
