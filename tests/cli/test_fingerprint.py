"""`fulldeck fingerprint`: the right key, a wrong key, a wrong model, and a server that only answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from fulldeck.cli import main
from fulldeck.ownership.suspect import OfServer
from fulldeck.serving.process import server

Cli = Callable[..., Any]
RECIPE = """\
workload: breast_cancer
train: {epochs: 12, threads: 1}
instructions:
  - leakage_safe_splitting
  - model_fingerprinting: {key: %s}
  - onnx_export
  - model_packaging
"""


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a run whose model has its mark."""
    folder = tmp_path_factory.mktemp("owned")
    key, recipe = folder / "owner.key", folder / "mine.yaml"
    assert main(["fingerprint", "new", str(key)]) == 0
    recipe.write_text(RECIPE % key)
    assert main(["run", str(recipe), "--out", str(folder / "runs"), "--quiet"]) == 0
    return key, folder / "runs/latest"


def test_the_owner_is_recognised(cli: Cli, owned: tuple[Path, Path]) -> None:
    key, run = owned
    answer = cli("fingerprint", "verify", run, "--key", key)
    assert answer.code == 0
    assert "the mark of this key is in this model" in answer.out + answer.err
    content = cli("fingerprint", "verify", run / "package", "--key", key, "--json").json
    assert content["found"]
    assert content["triggers"]["p_value"] < 1e-15
    assert content["weights"]["p_value"] < 1e-10
    assert content["triggers"]["queries"] == 100


def test_another_key_is_not(cli: Cli, owned: tuple[Path, Path], tmp_path: Path) -> None:
    made = cli("fingerprint", "new", tmp_path / "other.key", "--json")
    assert len(made.json["commitment"]) == 64
    answer = cli("fingerprint", "verify", owned[1], "--key", tmp_path / "other.key")
    assert answer.code == 1
    assert "no sign of this key's mark: it is another key, or another model" in answer.out + answer.err


def test_another_model_is_not_the_owners(cli: Cli, owned: tuple[Path, Path], finished: Path) -> None:
    answer = cli("fingerprint", "verify", finished, "--key", owned[0], "--json")
    assert answer.code == 1
    assert not answer.json["found"]
    assert answer.json["p_value"] > 1e-3


def test_a_server_is_only_asked(cli: Cli, owned: tuple[Path, Path]) -> None:
    key, run = owned
    with server(run / "package") as (url, _):
        for address in (url, f"{url}/v2/models/breast_cancer"):
            answer = cli("fingerprint", "verify", address, "--key", key, "--json")
            assert answer.code == 0
            assert answer.json["triggers"]["p_value"] < 1e-15
            assert answer.json["weights"] is None
        nothing = cli("fingerprint", "verify", f"{url}/v2/models/other", "--key", key)
        assert nothing.code == 2
        assert "answers 404" in nothing.err


@pytest.fixture
def stranger() -> Iterator[Callable[..., str]]:
    """Start a server that answers with what it is given: pairs of path and content, 503 first with a Retry-After."""
    started: list[HTTPServer] = []

    def start(answers: dict[str, Any], retry_after: str | None = None) -> str:
        waiting = [retry_after] if retry_after else []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(503 if waiting else 200)
                if waiting:
                    self.send_header("Retry-After", waiting.pop())
                content = json.dumps(answers.get(self.path)).encode()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        started.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}/models/it"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


TENSOR = {"name": "input", "datatype": "FP32", "shape": [-1, 4], "parameters": {}}
MODEL = {"inputs": [TENSOR], "outputs": [{**TENSOR, "name": "output", "shape": [-1, 2]}]}


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"/models/it": ["models"]},
        {"/openapi.json": {"paths": 3}},
        {"/openapi.json": {"paths": {}}},
        {"/models/it": {"model": "it"}},
        {"/models/it": {"inputs": 3}},
        {"/models/it": {"inputs": [], "outputs": []}},
        {"/models/it": {"inputs": [{**TENSOR, "datatype": "BYTES"}], "outputs": MODEL["outputs"]}},
        {"/models/it": MODEL, "/models/it/infer": {"predictions": [0]}},
        {"/models/it": MODEL, "/models/it/infer": {"outputs": [{"name": "output", "data": [0.5]}]}},
        {"/models/it": MODEL, "/models/it/infer": {"outputs": [{"name": "other", "data": [0.5]}]}},
    ],
)
def test_a_server_of_another_protocol_is_refused_in_one_line(
    cli: Cli, owned: tuple[Path, Path], stranger: Callable[..., str], answers: dict[str, Any]
) -> None:
    url = stranger(answers)
    if "/openapi.json" in answers:
        url = url.removesuffix("/models/it")
    answer = cli("fingerprint", "verify", url, "--key", owned[0])
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert answer.err.startswith("error: ")


@pytest.mark.parametrize(
    ("asked", "seconds"), [("Sat, 28 Nov 2026 12:00:00 GMT", 5.0), ("2", 2.0), ("900", 5.0), ("-1", 5.0)]
)
def test_a_busy_server_is_waited_for(
    stranger: Callable[..., str], monkeypatch: pytest.MonkeyPatch, asked: str, seconds: float
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert OfServer(stranger({"/models/it": MODEL}, asked)).form.classes == 2
    assert slept == [seconds]


def test_what_cannot_be_asked_is_named(cli: Cli, owned: tuple[Path, Path], tmp_path: Path) -> None:
    key, run = owned
    for words, code, said in (
        (["verify", run], 2, "say whose mark to look for: --key FILE"),
        (["new", tmp_path / "a.key", "--key", key], 2, "write: fulldeck fingerprint new FILE"),
        (["new", key], 2, "a key that is lost cannot be made again"),
        (["verify", run, "--key", run / "result.json"], 2, "is no owner's key"),
        (["verify", tmp_path, "--key", key], 2, "is neither a run nor a package"),
        (["verify", "http://127.0.0.1:9", "--key", key], 1, "does not answer"),
        (["verify", "ftp://127.0.0.1", "--key", key], 2, "is no address such as"),
        (["verify", run, "--key", key, "--shape", "3,x"], 2, "--shape takes sizes such as 3,32,32"),
        (["steal", run], 2, "steal"),
    ):
        answer = cli("fingerprint", *words)
        assert answer.code == code, answer.err
        assert said in answer.err


def test_a_model_that_is_no_classifier_says_so(cli: Cli, owned: tuple[Path, Path], tmp_path: Path) -> None:
    from tests.serving.packages import sum_package

    answer = cli("fingerprint", "verify", sum_package(tmp_path / "sums"), "--key", owned[0])
    assert answer.code == 2
    assert "is no classifier but does regression" in answer.err
