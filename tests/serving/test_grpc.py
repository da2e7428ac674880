import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from .packages import sum_package
from .servers import Server, eventually
from .test_metrics import scrape

SERVE = [sys.executable, "-m", "fulldeck", "serve", "--port", "0", "--json"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    package = sum_package(tmp_path_factory.mktemp("sums") / "package", max_batch=8, max_body_bytes=100_000)
    process = subprocess.Popen(
        [*SERVE, str(package), "--grpc-port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FULLDECK_TOKEN": "secret"},
    )
    yield process
    process.terminate()
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def client(server: subprocess.Popen[str]) -> Iterator[triton.InferenceServerClient]:
    assert server.stdout is not None
    with triton.InferenceServerClient(json.loads(server.stdout.readline())["grpc"]) as client:
        yield client


TOKEN = {"authorization": "Bearer secret"}


def ask(client: triton.InferenceServerClient, values: Any, **options: Any) -> np.ndarray:
    given = triton.InferInput("input", list(values.shape), "FP32")
    given.set_data_from_numpy(values)
    answer = client.infer("sums", [given], headers=TOKEN, **options)
    assert answer.get_response().id == options.get("request_id", "")
    return answer.as_numpy("output")


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sums", headers=TOKEN)
    assert client.get_server_metadata(headers=TOKEN).name == "fulldeck"
    described = client.get_model_metadata("sums", headers=TOKEN, as_json=True)
    assert described["inputs"] == [{"name": "input", "datatype": "FP32", "shape": ["-1", "3"]}]


def test_rows_come_back_in_their_order(client: triton.InferenceServerClient) -> None:
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    np.testing.assert_array_equal(ask(client, values, request_id="a-1"), [[3], [12], [21]])


def test_numbers_may_come_as_contents(client: triton.InferenceServerClient) -> None:
    request = triton.service_pb2.ModelInferRequest(model_name="sums")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 3])
    tensor.contents.fp32_contents.extend([1, 2, 3.5])
    answer = client._client_stub.ModelInfer(request, metadata=tuple(TOKEN.items()))
    assert np.frombuffer(answer.raw_output_contents[0], "<f4") == [6.5]


@pytest.mark.parametrize(
    ("shape", "datatype", "name", "code", "words"),
    [
        ([1, 4], "FP32", "input", "INVALID_ARGUMENT", "must have shape [-1, 3]"),
        ([1, 3], "FP64", "input", "INVALID_ARGUMENT", "must have datatype FP32"),
        ([9, 3], "FP32", "input", "INVALID_ARGUMENT", "1 to 8 rows, got 9"),
        ([1, 3], "FP32", "inptu", "INVALID_ARGUMENT", "did you mean input?"),
    ],
)
def test_a_wrong_tensor_is_refused_in_one_line(
    client: triton.InferenceServerClient, shape: list[int], datatype: str, name: str, code: str, words: str
) -> None:
    given = triton.InferInput(name, shape, datatype)
    given.set_data_from_numpy(np.zeros(shape, np.float64 if datatype == "FP64" else np.float32))
    with pytest.raises(InferenceServerException) as refused:
        client.infer("sums", [given], headers=TOKEN)
    assert refused.value.status() == f"StatusCode.{code}"
    assert words in refused.value.message()


def test_who_and_what_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="send the server's token"):
        client.get_model_metadata("sums", headers={"authorization": "Bearer wrong"})
    with pytest.raises(InferenceServerException, match='unknown model "other"; this server has "sums"'):
        client.get_model_metadata("other", headers=TOKEN)
    with pytest.raises(InferenceServerException, match="larger than max"):
        ask(client, np.zeros((50_000, 3), np.float32))
    assert ask(client, np.ones((1, 3), np.float32)) == [[3]]


def test_a_deadline_of_the_client_is_kept(
    server: subprocess.Popen[str], client: triton.InferenceServerClient
) -> None:
    import psutil

    engines = psutil.Process(server.pid).children()
    for engine in engines:
        os.kill(engine.pid, signal.SIGSTOP)
    try:
        with pytest.raises(InferenceServerException) as refused:
            ask(client, np.ones((1, 3), np.float32), timeout=200_000)
        assert refused.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    finally:
        for engine in engines:
            os.kill(engine.pid, signal.SIGCONT)
    eventually(lambda: client.is_server_ready())
    assert ask(client, np.ones((1, 3), np.float32)) == [[3]]


def test_a_client_over_its_rate_counts_apart_from_want_of_room(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package", carried={"limits": {"rate_per_s": 0.01, "burst": 1}})
    with subprocess.Popen(
        [*SERVE, str(package), "--grpc-port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        at = json.loads(process.stdout.readline())
        with triton.InferenceServerClient(at["grpc"]) as client:
            ask(client, np.ones((1, 3), np.float32))
            with pytest.raises(InferenceServerException, match=r"may send 0\.01 requests a second"):
                ask(client, np.ones((1, 3), np.float32))
        found = scrape(Server(process, int(at["url"].rsplit(":", 1)[1]), False))
        process.terminate()
    assert found["fulldeck_requests_total", "rate_limited", "429"] == 1
    assert found["fulldeck_requests_total", "infer", "429"] == 0


def test_a_taken_port_is_told_in_one_line(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [*SERVE, str(package), "--grpc-port", port], capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port} for gRPC" in ended.stderr
    assert "Traceback" not in ended.stderr
