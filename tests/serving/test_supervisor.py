import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from .packages import sum_package
from .servers import eventually, meanwhile, running


def answers(server) -> bool:
    return server.infer("sums", [1, 2, 3])[0] == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_engine_process_is_replaced(tmp_path: Path, number: int) -> None:
    with running(sum_package(tmp_path / "package")) as server, meanwhile() as call:
        (worker,) = server.workers
        with server.stopped():
            caught = call(server.infer, "sums", [1, 2, 3])
            eventually(lambda: bool(psutil.Process(server.process.pid).net_connections()[1:]))
            os.kill(worker, number)
        status, content = caught.result()
        assert status in (200, 503)
        if status == 503:
            assert "died" in content["error"]
        eventually(lambda: answers(server))
        assert worker not in server.workers
        assert server.ask("GET", "/v2/health/ready") == (200, {"ready": True})


def test_a_hung_engine_process_is_replaced(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package", stall_ms=500)) as server:
        (worker,) = server.workers
        os.kill(worker, signal.SIGSTOP)
        status, content = server.infer("sums", [1, 2, 3])
        assert status == 503, content
        eventually(lambda: answers(server))
        assert not psutil.pid_exists(worker)


def test_a_request_is_answered_at_its_deadline_while_its_engine_process_goes_on(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package", deadline_ms=500)) as server:
        (worker,) = server.workers
        with server.stopped():
            assert server.infer("sums", [1, 2, 3])[0] == 504
        eventually(lambda: answers(server))
        assert server.workers == [worker]


def test_the_server_is_live_but_not_ready_without_an_engine_process(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package")
    with running(package) as server:
        (package / "model.onnx").rename(tmp_path / "away.onnx")  # the next engine process cannot start
        os.kill(server.workers[0], signal.SIGKILL)
        eventually(lambda: server.ask("GET", "/v2/health/ready") == (503, {"ready": False}))
        assert server.ask("GET", "/v2/health/live") == (200, {"live": True})
        assert server.infer("sums", [1, 2, 3], parameters={"timeout": 200_000})[0] == 504
        (tmp_path / "away.onnx").rename(package / "model.onnx")
        eventually(lambda: answers(server))


def test_two_engine_processes_share_the_work(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package", workers=2)) as server:
        os.kill(server.workers[0], signal.SIGSTOP)
        with meanwhile() as call:
            waiting = [call(server.infer, "sums", [1, 2, number]) for number in range(8)]
            eventually(lambda: sum(one.done() for one in waiting) >= 4)
            os.kill(server.workers[0], signal.SIGCONT)
            assert [one.result()[1]["outputs"][0]["data"] for one in waiting] == [[3 + n] for n in range(8)]


IMPATIENT = """
import sys
from pathlib import Path
import fulldeck.serving.supervisor
from fulldeck.serving import serve
fulldeck.serving.supervisor.LOAD_SECONDS = 0.01
serve(Path(sys.argv[1]), port=0)
"""


def test_an_engine_process_that_loads_for_too_long_is_said_to(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package")
    command = [sys.executable, "-c", IMPATIENT, str(package)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "RunFailed: no engine process: it had not loaded the model after 0.01 s" in done.stderr


@pytest.mark.slow
def test_no_request_hangs_and_nothing_leaks_over_many_kills(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package")) as server, meanwhile(8) as call:
        process = psutil.Process(server.process.pid)
        assert answers(server)
        descriptors = process.num_fds()
        for _ in range(40):
            asked = [call(server.infer, "sums", [1, 2, 3]) for _ in range(40)]
            for worker in server.workers:
                os.kill(worker, signal.SIGKILL)
            assert {one.result()[0] for one in asked} <= {200, 503}
        eventually(lambda: answers(server))
        eventually(lambda: process.num_fds() <= descriptors)
        assert len(server.workers) == 1
