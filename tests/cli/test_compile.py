"""`fulldeck compile`: engines and precisions compared, the fastest in the package, the same answers over HTTP."""

from __future__ import annotations

import http.client
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fulldeck.compilation.arm import arms_of
from fulldeck.engines import why_not
from fulldeck.engines.shapes import shapes_of
from fulldeck.engines.source import Source
from fulldeck.package import Package
from fulldeck.serving.process import server
from tests.small_disk import on_small_disk

Cli = Callable[..., Any]
PRIVATE = """\
workload: breast_cancer
train: {epochs: 1, threads: 2}
instructions:
  - leakage_safe_splitting
  - dp_training: {mode: functional}
  - onnx_export
  - model_serving_framework
  - model_packaging
"""
needs_openvino = pytest.mark.skipif(why_not("openvino") is not None, reason="OpenVINO is not here")


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Path(shutil.copytree(finished.resolve(), tmp_path / "run"))


def test_the_engines_are_compared_and_one_is_taken(cli: Cli, run: Path) -> None:
    answer = cli("compile", run, "--engine", "onnxruntime", "--fp32", "--json")
    assert (answer.code, answer.err) == (0, "")
    result = answer.json
    (row,) = result["engines"]
    assert (row["name"], row["precision"], row["available"], row["reason"]) == (
        "onnxruntime",
        "fp32",
        True,
        None,
    )
    assert row["agreement"] == 1.0
    assert row["difference"] < 1e-4
    assert row["cosine"] > 0.9999
    assert row["rows"] > 50
    assert row["interval"][0] <= row["latency_ms"] <= row["interval"][1]
    assert set(row["metrics"]) == {"accuracy"}
    assert result["chosen"]["name"] == "onnxruntime"
    assert result["measured_at"] == {"input": [1, 30]}
    assert json.loads((run / "compile.json").read_bytes())["chosen"] == result["chosen"]


def test_a_signature_that_goes_is_told(cli: Cli, run: Path) -> None:
    signature = run / "package" / "signature.json"
    signature.write_text("{}")
    words = ("compile", run, "--engine", "onnxruntime", "--fp32")
    assert "the package was signed and no longer is" in cli(*words).out
    assert not signature.exists()
    assert cli(*words, "--json").json["notes"] == []


@needs_openvino
def test_the_winner_is_in_the_sealed_package_and_is_served_and_predicts(cli: Cli, run: Path) -> None:
    item = json.dumps(Package.open(run / "package").encoder().example())
    before = cli("predict", run, item, "--json").json
    shown = cli("compile", run, "--engine", "openvino", "--fp32").out
    assert "chosen: openvino fp32, in package" in shown
    package = Package.open(run / "package")  # every hash is as the manifest says
    assert [model.engine for model in package.service.models] == ["onnxruntime", "openvino"]
    assert package.service.models[0].path == package.service.models[1].path, "one file, two engines"
    assert package.engine().name == "openvino"
    after = cli("predict", run, item, "--json").json
    assert after["label"] == before["label"]
    assert after["probabilities"] == pytest.approx(before["probabilities"], abs=1e-4)
    listed = json.loads((run / "result.json").read_bytes())["artifacts"]
    assert [(one["engine"], one["by"]) for one in listed if "by" in one] == [("openvino", "compile")]
    with server(run / "package") as (url, _):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("GET", f"/v2/models/{package.service.model}")
        assert json.loads(connection.getresponse().read())["platform"] == "openvino_onnx"
        connection.request("POST", "/predict", json.dumps({"row": json.loads(item)}))
        assert json.loads(connection.getresponse().read())["label"] == before["label"]
        connection.close()


@needs_openvino
def test_a_second_time_the_choice_is_known(cli: Cli, run: Path) -> None:
    words = ("compile", run, "--engine", "openvino", "--fp32")
    assert cli(*words, "--json").json["cached"] is False
    again = cli(*words, "--json").json
    assert again["cached"] is True
    assert "kept from an earlier measurement" in cli(*words).out
    assert cli(*words, "--fresh", "--json").json["cached"] is False
    # Other weights are another model.
    weights = run / "artifacts" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert cli(*words, "--json").json["cached"] is False


def test_weights_beside_the_onnx_file_are_part_of_the_model(cli: Cli, run: Path) -> None:
    words = ("compile", run, "--engine", "onnxruntime", "--fp32", "--json")
    file = run / "artifacts" / "model.onnx"
    data = file.with_name("model.onnx.data")
    onnx.save_model(onnx.load(file), file, save_as_external_data=True, location=data.name, size_threshold=0)
    assert cli(*words).json["cached"] is False
    assert cli(*words).json["cached"] is True
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(bytes(content))
    assert cli(*words).json["cached"] is False


def test_a_file_that_gives_other_answers_never_gets_into_the_package(
    cli: Cli, run: Path, tmp_path: Path
) -> None:
    words = ("compile", run, "--engine", "torch", "--fp32")
    sealed = (run / "package" / "manifest.sha256").read_bytes()
    shutil.copytree(run / "package", tmp_path / "package")
    assert cli(*words).code == 0
    shutil.rmtree(run / "package")
    (tmp_path / "package").rename(run / "package")
    (file,) = (tmp_path / "cache").rglob("network.fp32.safetensors")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, metadata)
    answer = cli(*words)
    assert answer.code == 1
    assert "differs from the model by" in answer.err
    assert "measure again with --fresh" in answer.err
    assert (run / "package" / "manifest.sha256").read_bytes() == sealed
    assert cli(*words, "--fresh").code == 0


@pytest.mark.slow
@pytest.mark.skipif(why_not("tvm") is not None, reason="TVM is not here")
def test_native_code_that_was_damaged_or_is_not_wanted_is_made_again(
    cli: Cli, run: Path, tmp_path: Path
) -> None:
    words = ("compile", run, "--engine", "tvm", "--json")
    assert cli(*words).code == 0
    (file,) = (tmp_path / "cache").rglob("model.fp32.tvm")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    answer = cli(*words)
    assert (answer.code, answer.json["cached"]) == (0, False)
    assert Package.open(run / "package").engine().name == "tvm"
    before = file.stat().st_mtime_ns
    assert cli(*words, "--fresh").code == 0
    assert file.stat().st_mtime_ns != before


def test_what_strays_too_far_is_not_taken(cli: Cli, run: Path) -> None:
    answer = cli("compile", run, "--engine", "torch", "--bf16", "--agreement", "1", "--metric-drop", "0")
    if answer.code:  # whether a few answers change depends on the weights
        assert answer.code == 1
        assert "predictions are the same, and 100.00% must be" in answer.err
    else:
        assert "100.00%" in answer.out


def test_a_float16_file_is_made_of_the_module_in_float16(cli: Cli, run: Path) -> None:
    chosen = cli("compile", run, "--engine", "onnxruntime", "--fp16", "--json").json["chosen"]
    assert (chosen["name"], chosen["precision"]) == ("onnxruntime", "fp16")
    assert chosen["bytes"] < 0.7 * (run / "artifacts" / "model.onnx").stat().st_size
    weights = {
        one.name: one.data_type for one in onnx.load(run / "artifacts" / "model.fp16.onnx").graph.initializer
    }
    assert onnx.TensorProto.FLOAT16 in weights.values()
    Package.open(run / "package").engine()


def test_a_full_disk_leaves_the_package_as_it_was(run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (run / "package").iterdir()}
    cache = tmp_path / "cache"
    cache.mkdir()
    words = f"{sys.executable} -m fulldeck compile {run} --engine torch_compiled --fp32"
    ended = on_small_disk(cache, "100k", words)
    assert ended.returncode in (1, 2)
    assert "no space left on device" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert {path.name: path.read_bytes() for path in (run / "package").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "onnx"], 'unknown engine "onnx"; did you mean onnxruntime?'),
        (["--engine", "tvm", "--bf16"], "engine tvm has no bf16; it has fp32"),
        (["--engine", "onnxruntime", "--shapes", "0"], "no range of sizes; write 8, 1:64"),
        (
            ["--engine", "onnxruntime", "--shapes", "input=1x31"],
            "the data of the run have input of 30, which --shapes leaves out; write --shapes input=1:1:1x30",
        ),
        (
            ["--engine", "onnxruntime", "--bf16"],
            "engine onnxruntime has no bf16; it has fp32, fp16, int8, int4",
        ),
    ],
)
def test_bad_words_are_one_line(cli: Cli, run: Path, words: list[str], message: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "package").iterdir()}
    answer = cli("compile", run, *words)
    assert answer.code in (1, 2)
    assert message in answer.err
    assert len([line for line in answer.err.splitlines() if line.startswith("error")]) == 1
    assert {path: path.stat().st_mtime_ns for path in (run / "package").iterdir()} == before


@pytest.mark.skipif(why_not("tensorrt") is None, reason="TensorRT is here")
def test_an_engine_that_is_not_here_is_refused_with_what_to_type(cli: Cli, run: Path) -> None:
    answer = cli("compile", run, "--engine", "tensorrt", "--fp16", "--workspace", "4096")
    assert answer.code == 2
    assert answer.err.startswith("error: engine tensorrt is not available: ")
    assert "trtexec" in answer.err
    assert "--memPoolSize=workspace:4096" in answer.err


def test_no_run_is_refused(cli: Cli, tmp_path: Path) -> None:
    answer = cli("compile", tmp_path)
    assert answer.code == 2
    assert "is no run: it has no result.json" in answer.err


def test_fixed_sizes_are_measured_there_and_stay_out_of_the_package(cli: Cli, run: Path) -> None:
    sealed = (run / "package" / "manifest.sha256").read_bytes()
    result = cli("compile", run, "--engine", "onnxruntime", "--fp32", "--shapes", "8", "--json").json
    assert result["measured_at"] == {"input": [8, 30]}
    assert result["shapes"] == {"input": ["8", "30"]}
    assert result["package"] is None
    assert "a server gets single rows too" in result["why_no_package"]
    assert (run / "package" / "manifest.sha256").read_bytes() == sealed


ROUNDED = """\
workload: breast_cancer
train: {epochs: 3, threads: 1}
instructions:
  - leakage_safe_splitting
  - quantization_aware_training: {bit_width: WIDTH, metric_drop: 1.0}
  - onnx_export
  - model_serving_framework
  - model_packaging
"""


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize("width", [8, 4])
def test_a_run_that_trained_rounded_weights_is_compiled_as_what_it_is(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "rounded.yaml").write_text(ROUNDED.replace("WIDTH", str(width)))
    assert cli("run", tmp_path / "rounded.yaml", "--out", tmp_path / "runs").code == 0
    run = (tmp_path / "runs" / "latest").resolve()
    item = json.dumps(Package.open(run / "package").encoder().example())
    before = cli("predict", run, item, "--json").json
    answer = cli("compile", run, "--engine", "openvino", "--json")
    assert (answer.code, answer.err) == (0, "")
    result = answer.json
    (row,) = result["engines"]
    assert (row["name"], row["precision"], row["reason"]) == ("openvino", f"int{width}", None)
    assert result["chosen"]["agreement"] >= 0.98
    assert result["reference"] == f"the trained module in int{width}, PyTorch eager"
    assert result["notes"] == [f"the model was trained in int{width}, and has no other precision"]
    package = Package.open(run / "package")
    assert package.engine().name == "openvino"
    models = package.service.models
    assert {one.path for one in models} == {models[0].path}, "one file, whichever engine runs it"
    after = cli("predict", run, item, "--json").json
    assert after["label"] == before["label"]
    assert after["probabilities"] == pytest.approx(before["probabilities"], abs=0.05)
    refused = cli("compile", run, "--fp32")
    assert refused.code == 2
    assert f"the model was trained in int{width}, and has no fp32; leave --fp32 out" in refused.err
    monkeypatch.chdir(tmp_path)
    assert cli("diagnose", "--inference", run).code == 0


@pytest.mark.slow
def test_after_a_private_training_no_training_row_shapes_what_is_compiled(
    cli: Cli, recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = recipe(PRIVATE)
    assert cli("run", path, "--out", tmp_path / "runs").code == 0
    run = tmp_path / "runs" / "latest"
    words = ("compile", run, "--engine", "onnxruntime", "--int8", "--agreement", "0", "--metric-drop", "1")
    result = cli(*words, "--json").json
    hows = {one["how"] for one in result["engines"]}
    assert hows == {"dynamic-onnxruntime", "weights-onnxruntime"}
    assert any("dp_training excludes it" in note and "mode: dynamic" in note for note in result["notes"])
    # Fixed ranges of activations would be QuantizeLinear; dynamic ones are found in each call.
    graph = onnx.load(run / result["artifact"]).graph
    assert "QuantizeLinear" not in {node.op_type for node in graph.node}


def test_without_calibration_torch_compiles_no_static_int8() -> None:
    example = {"input": np.zeros((2, 4), np.float32)}
    source = Source(example, shapes_of(example, ()), {"fp32": torch.nn.Linear(4, 2)})
    assert [arm.how for arm in arms_of("torch_compiled", ["int8"], source, ())] == ["dynamic"]


@pytest.mark.slow
def test_auto_measures_all_that_are_here(cli: Cli, run: Path) -> None:
    result = cli("compile", run, "--json").json
    names = {(one["name"], one["precision"]) for one in result["engines"] if one["available"]}
    assert {("torch", "fp32"), ("torch_compiled", "fp32"), ("onnxruntime", "fp32")} <= names
    ratios = [one["ratio"] for one in result["engines"] if one["ratio"] is not None]
    assert ratios == sorted(ratios)
    assert result["chosen"]["ratio"] == 1.0
    assert all(one["reason"] for one in result["engines"] if one["ratio"] is None)
    Package.open(run / "package").engine()
