import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulldeck.package import TensorSpec
from fulldeck.serving.http import Refusal
from fulldeck.serving.protocol import DATATYPES, from_numbers

from .packages import lookup_package, rows_package, sum_package
from .servers import Server, eventually, meanwhile, running

INFER = "/v2/models/sums/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(sum_package(tmp_path_factory.mktemp("sums") / "package", max_batch=8)) as server:
        yield server


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "input", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6.5], **changes}


def test_server_health_and_metadata(server: Server) -> None:
    assert server.ask("GET", "/v2")[1]["extensions"] == ["binary_tensor_data", "model_repository"]
    assert server.ask("GET", "/v2/health/live") == (200, {"live": True})
    assert server.ask("GET", "/v2/health/ready") == (200, {"ready": True})
    described = {
        "name": "sums", "versions": ["1"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 1]}],
    }  # fmt: skip
    assert server.ask("GET", "/v2/models/sums") == (200, described)
    assert server.ask("GET", "/v2/models/sums/versions/1") == (200, described)
    assert server.ask("GET", "/v2/models/sums/ready") == (200, {"name": "sums", "ready": True})


@pytest.mark.parametrize("path", [INFER, "/v2/models/sums/versions/1/infer"])
@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6.5], [[1, 2, 3], [4, 5, 6.5]]])
def test_json_inference(server: Server, path: str, data: Any) -> None:
    body = {
        "id": "a-1",
        "inputs": [tensor(data=data)],
        "outputs": [{"name": "output"}],
        "parameters": {"x": 1},
    }
    output = {"name": "output", "datatype": "FP32", "shape": [2, 1], "data": [6.0, 15.5]}
    expected = {"model_name": "sums", "model_version": "1", "outputs": [output], "id": "a-1"}
    assert server.ask("POST", path, body) == (200, expected)


def test_binary_inference(server: Server) -> None:
    import http.client

    values = np.array([[1, 2, 3]], "<f4")
    described = tensor(shape=[1, 3], parameters={"binary_data_size": values.nbytes})
    del described["data"]
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request(
        "POST", INFER, head + values.tobytes(), {"Inference-Header-Content-Length": str(len(head))}
    )
    answer = connection.getresponse()
    body = answer.read()
    size = int(answer.headers["Inference-Header-Content-Length"])
    assert json.loads(body[:size])["outputs"] == [
        {"name": "output", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
    ]
    assert np.frombuffer(body[size:], "<f4") == [6]
    connection.close()


def test_tritonclient(server: Server) -> None:
    import tritonclient.http as client_module

    client = client_module.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sums")
    assert not client.is_model_ready("other")
    assert client.get_model_metadata("sums")["name"] == "sums"
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    for binary in (True, False):
        given = client_module.InferInput("input", [2, 3], "FP32")
        given.set_data_from_numpy(values, binary_data=binary)
        wanted = client_module.InferRequestedOutput("output", binary_data=binary)
        result = client.infer("sums", [given], outputs=[wanted], request_id="7")
        np.testing.assert_array_equal(result.as_numpy("output"), [[3], [12]])
        assert result.get_response()["id"] == "7"
    client.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": [1, 2, 3]}, "data of shape [3] do not fit to shape [2, 3]"),
        ({"data": [[1, 2], [3, 4], [5, 6]]}, "do not fit to shape [2, 3]"),
        ({"data": [[1, 2, 3], [4, 5]]}, "ragged"),
        ({"shape": [2, 4]}, "must have shape [-1, 3]"),
        ({"shape": [6]}, "must have shape [-1, 3]"),
        ({"shape": [-2, 3]}, "a list of sizes"),
        ({"shape": [True, 3]}, "a list of sizes"),
        ({"shape": None}, "a list of sizes"),
        ({"shape": [0, 3], "data": []}, "1 to 8 rows, got 0"),
        ({"shape": [9, 3], "data": [0] * 27}, "1 to 8 rows, got 9"),
        ({"shape": [10**15, 3]}, "do not fit to shape [10000"),
        ({"datatype": "FP64"}, "datatype FP32, got \"FP64\""),
        ({"datatype": ["FP32"]}, "datatype FP32, got a list"),
        ({"name": "inptu"}, 'unknown input "inptu"; did you mean input?'),
        ({"name": [[]]}, "unknown input a list"),
        ({"data": ["1", "2", "3", "4", "5", "6"]}, "must be FP32 numbers"),
        ({"data": [None] * 6}, "must be FP32 numbers"),
        ({"data": [1e300] * 6}, "FP32 cannot hold"),
        ({"data": [10**400] * 6}, "JSON"),
        ({"data": "123456"}, "must have data"),
        ({"parameters": 3}, '"parameters" must be an object'),
        ({"parameters": {"binary_data_size": 5}}, "needs 24 bytes, got 0"),
        ({"parameters": {"binary_data_size": -5}}, "must be a number of bytes"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_refused_in_one_line(server: Server, change: dict[str, Any], message: str) -> None:
    status, content = server.ask("POST", INFER, {"inputs": [tensor(**change)]})
    assert status == 400
    assert message in content["error"]
    assert "\n" not in content["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"inputs": [NaN]}', "not JSON"),
        (b"9" * 5000, "JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", '"inputs" must be a list of tensors'),
        (b'{"inputs": [3]}', "each of"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, "unknown output"),
        ({"inputs": [tensor()], "outputs": [3]}, '"outputs" must be a list'),
        ({"inputs": [tensor()], "outputs": 3}, '"outputs" must be a list'),
        ({"inputs": [tensor()], "id": 3}, '"id" must be a text'),
        ({"inputs": [tensor()], "parameters": {"timeout": "soon"}}, "timeout"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(server: Server, body: Any, message: str) -> None:
    status, content = server.ask("POST", INFER, body)
    assert status == 400
    assert message in content["error"]


def test_unknown_paths_models_and_methods(server: Server) -> None:
    assert server.ask("POST", "/v2/models/other/infer", {})[0] == 404
    assert "unknown model" in server.ask("GET", "/v2/models/other")[1]["error"]
    assert server.ask("GET", "/v2/models/sums/versions/2")[0] == 404
    assert server.ask("GET", "/etc/passwd")[0] == 404
    assert server.ask("GET", INFER)[0] == 405
    assert server.ask("DELETE", "/v2")[0] == 405


def test_an_output_that_is_not_finite_is_said_so(server: Server) -> None:
    status, content = server.infer("sums", [3e38, 3e38, 3e38])
    assert status == 422
    assert "not finite" in content["error"]


def test_one_bad_row_does_not_spoil_its_batch(tmp_path: Path) -> None:
    with running(lookup_package(tmp_path / "package")) as server, meanwhile() as call:
        with server.stopped():
            answers = [call(server.infer, "lookup", [index], "INT64") for index in (0, 1, 99, 2, 3, -77)]
            eventually(
                lambda: server.infer("lookup", [0], "INT64", parameters={"timeout": 100_000})[0] == 504
            )
        outcomes = [answer.result() for answer in answers]
        assert [status for status, _ in outcomes] == [200, 200, 400, 200, 200, 400]
        assert "out of" in outcomes[2][1]["error"]
        assert [outcomes[place][1]["outputs"][0]["data"] for place in (0, 1, 3, 4)] == [[0], [10], [20], [30]]


def test_what_waits_is_joined_up_to_the_largest_batch(tmp_path: Path) -> None:
    with running(rows_package(tmp_path / "package", max_batch=4)) as server, meanwhile() as call:
        with server.stopped():
            answers = [call(server.infer, "rows", [0, 0, 0]) for _ in range(11)]
            eventually(lambda: server.infer("rows", [0, 0, 0], parameters={"timeout": 100_000})[0] == 504)
        batches = [answer.result()[1]["outputs"][0]["data"][0] for answer in answers]
        assert max(batches) == 4


def test_a_full_queue_answers_429_and_recovers(tmp_path: Path) -> None:
    with running(sum_package(tmp_path / "package", queue=2, max_batch=1)) as server, meanwhile() as call:
        with server.stopped():
            answers = [call(server.infer, "sums", [1, 2, 3]) for _ in range(8)]
            eventually(lambda: sum(answer.done() for answer in answers) == 5)  # 1 in work, 2 in the queue
            refused = [answer.result() for answer in answers if answer.done()]
            assert {status for status, _ in refused} == {429}
        assert sorted(answer.result()[0] for answer in answers) == [200] * 3 + [429] * 5
        assert server.infer("sums", [1, 2, 3])[0] == 200


def test_large_tensors_go_through_shared_memory(tmp_path: Path) -> None:
    width = 50_000
    with running(sum_package(tmp_path / "package", width)) as server:
        for factor in (1, 2):
            status, content = server.infer("sums", [factor] * width)
            assert (status, content["outputs"][0]["data"]) == (200, [factor * width])
        os.kill(server.workers[0], signal.SIGKILL)
        eventually(lambda: server.infer("sums", [1] * width)[0] == 200)


@pytest.mark.parametrize(
    ("datatype", "good", "bad"),
    [
        ("BOOL", [True, False, 1], [2]),
        ("UINT8", [0, 255], [256]),
        ("INT8", [-128, 127], [-129]),
        ("UINT16", [65535], [-1]),
        ("INT32", [-(2**31)], [2**31]),
        ("UINT64", [2**64 - 1], [2**64]),
        ("INT64", [-(2**63)], [0.5]),
        ("FP16", [65504, 0.5], [70000]),
        ("FP32", [2.0**127, 1], [2.0**128]),
        ("FP64", [1e300], [10**309]),
    ],
)
def test_numbers_that_a_type_cannot_hold_are_refused(datatype: str, good: list[Any], bad: list[Any]) -> None:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
    dtype = np.dtype(DATATYPES[datatype])
    array = from_numbers(good, spec, dtype, [len(good)])
    assert array.dtype == dtype
    assert array.tolist() == good
    for wrong in (bad, ["1"], [None], [[1], 2]):
        with pytest.raises(Refusal):
            from_numbers(wrong, spec, dtype, [len(wrong)])
