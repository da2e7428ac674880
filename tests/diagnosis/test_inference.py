"""A trained model's forward pass, from the folder of its run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import fulldeck as fd
from fulldeck.diagnosis.inference import diagnose_inference, trained
from fulldeck.errors import BadInput


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    return Path(fd.run("breast_cancer", [fd.LeakageSafeSplitting()], out=out, epochs=3, threads=1)["run"])


@pytest.fixture(scope="module")
def result(run: Path) -> dict[str, Any]:
    return diagnose_inference(run)


def test_operators_of_one_row_and_of_many(result: dict[str, Any]) -> None:
    assert set(result["batches"]) == {"1", "32"}
    for one in result["batches"].values():
        assert one["milliseconds"] > 0
        assert sum(one["bounds"].values()) == pytest.approx(1.0)
        assert {"aten::addmm", "aten::relu"} & {operator["name"] for operator in one["operators"]}
    assert result["batches"]["32"]["rows_per_s"] > result["batches"]["1"]["rows_per_s"]
    assert result["bottleneck"]["class"] == "launch", "it is a tiny network"


def test_layers_chains_and_engines(result: dict[str, Any], run: Path) -> None:
    _, candidate = trained(run)
    names = {name for name, _ in candidate.module.named_modules()}
    assert result["layers"]
    for layer in result["layers"]:
        assert layer["name"] in names
        assert 0 <= layer["error"]["bfloat16"] < 0.1
        assert layer["tolerates"] in ("int8", "bfloat16", "float32")
    assert ["hidden.0", "hidden.1"] in result["chains"]
    assert {"name": "torch", "reason": None} in result["engines"]


def test_instructions_predict_what_they_would_do_to_it(result: dict[str, Any]) -> None:
    predicted = {item["name"]: item for item in result["advice"]}
    assert predicted["onnx_export"]["figure"] == "latency"
    assert predicted["post_training_quantization"]["figure"] == "artifact_bytes"
    assert 0.25 <= predicted["post_training_quantization"]["predicted"] < 0.4
    assert "amp_optimizer" not in predicted
    assert result["bottleneck"]["missing"] is None


def test_the_loaded_model_is_the_trained_one(run: Path) -> None:
    _, candidate = trained(run)
    assert candidate.data.test is not None
    outputs = candidate.run(candidate.encoded(candidate.data.test))
    assert (outputs.argmax(axis=1) == candidate.data.test.targets).mean() > 0.8


def test_what_is_no_finished_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no run"):
        diagnose_inference(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    result = (copy / "result.json").read_text()
    (copy / "result.json").write_text(result.replace('"finished"', '"interrupted"'))
    with pytest.raises(BadInput, match="is interrupted, not finished"):
        diagnose_inference(copy)
    (copy / "result.json").write_text(result)
    (copy / "recipe.yaml").write_text("workload: digits\n")
    with pytest.raises(BadInput, match="does not fit the model of"):
        diagnose_inference(copy)
    (copy / "artifacts" / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="which holds the trained weights"):
        diagnose_inference(copy)
