"""`fulldeck serve`: what it says when it is ready, and what it refuses before it starts."""

import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

Cli = Callable[..., Any]


def test_it_serves_until_it_is_interrupted(finished: Path) -> None:
    words = ["serve", str(finished), "--port", "0", "--workers", "1", "--threads", "1", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fulldeck", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    with urllib.request.urlopen(f"{ready['url']}/v2/models/{ready['model']}/ready", timeout=10) as response:
        assert response.status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(("folder", "sent"), [("", "--data-binary"), ("package", "--json")])
def test_what_it_says_to_try_can_be_sent(finished: Path, folder: str, sent: str) -> None:
    words = ["serve", str(finished / folder), "--port", "0", "--workers", "1", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "fulldeck", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    curl, url, option, body = shlex.split(process.stdout.readline())
    assert (curl, option) == ("curl", sent)
    content = Path(body[1:]).read_bytes() if body.startswith("@") else body.encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert json.load(response)["label"] in ("benign", "malignant")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


def test_its_log_can_be_json_lines(finished: Path) -> None:
    words = ["serve", str(finished), "--port", "0", "--workers", "1", "--threads", "1", "--log-json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fulldeck", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    ready = json.loads(process.stderr.readline())
    (engine,) = psutil.Process(process.pid).children()
    engine.kill()
    ended = json.loads(process.stderr.readline())
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert ready["url"].startswith("http://127.0.0.1:")
    assert (ended["level"], ended["logger"]) == ("warning", "fulldeck.serving")
    assert ended["message"].startswith(f"engine process {engine.pid} ended")


def test_a_port_that_is_taken(cli: Cli, finished: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answer = cli("serve", finished, "--port", port)
    assert answer.code == 2
    assert f"port {port} on 127.0.0.1 is taken" in answer.err


def test_off_loopback_a_token_is_mandatory(cli: Cli, finished: Path) -> None:
    answer = cli("serve", finished, "--host", "0.0.0.0", "--port", "0")
    assert answer.code == 2
    assert "set FULLDECK_TOKEN to a secret" in answer.err


def test_one_changed_byte_is_refused(cli: Cli, finished: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(finished / "package", package)
    file = package / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    answer = cli("serve", package, "--port", "0")
    assert answer.code == 2
    assert "model.onnx was changed after it was packaged" in answer.err


def test_settings_are_checked(cli: Cli, finished: Path) -> None:
    assert "workers must be between 1 and 64, got 0" in cli("serve", finished, "--workers", "0").err
    assert (
        'unknown engine "onnxruntim"; did you mean onnxruntime?'
        in cli("serve", finished, "--engine", "onnxruntim").err
    )
