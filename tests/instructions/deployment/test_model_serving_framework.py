import copy
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fulldeck.engines import ENGINES, why_not
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.deployment.model_packaging import ModelPackaging, package_model
from fulldeck.instructions.deployment.model_serving_framework import (
    ModelServingFramework,
    in_engine,
    serve_package,
)
from fulldeck.instructions.inference.onnx_export import OnnxExport
from fulldeck.instructions.inference.quantization_aware_training import convert, prepare_qat
from fulldeck.instructions.inference.reduced_precision_inference import ReducedPrecisionInference
from fulldeck.package import Package
from fulldeck.parity import agreement
from fulldeck.service import Service, Serving


def service(candidate) -> Service:
    return Service(candidate, "digits", Path())


def test_its_parameters_are_the_settings_of_the_server():
    assert set(ModelServingFramework.model_fields) == set(Serving.model_fields)
    for name, field in ModelServingFramework.model_fields.items():
        assert field.description == Serving.model_fields[name].description


def test_the_settings_reach_the_service(quantised):
    made = ModelServingFramework(workers=3, queue=7, engine="onnxruntime").configure(service(quantised))
    assert made.serving == Serving(workers=3, queue=7, engine="onnxruntime")


def test_a_built_in_network_can_be_served_by_torch(trained):
    assert ModelServingFramework(engine="torch").configure(service(trained)).serving.engine == "torch"


def test_an_engine_without_a_form_of_the_model_is_refused(trained, exported):
    with pytest.raises(CannotAct, match="no form of the model for engine onnxruntime, only for torch"):
        ModelServingFramework(engine="onnxruntime").configure(service(trained))
    own = replace(exported, module=nn.Identity())
    with pytest.raises(CannotAct, match="no form of the model for engine torch, only for onnxruntime"):
        ModelServingFramework(engine="torch").configure(service(own))


def test_bad_settings_are_refused_in_one_line():
    with pytest.raises(BadInput, match='unknown engine "onnx"; did you mean onnxruntime'):
        ModelServingFramework(engine="onnx")
    with pytest.raises(BadInput, match=r"model_serving_framework.workers must be between 1 and 64, got 0"):
        ModelServingFramework(workers=0)


def test_no_package_no_server(tmp_path):
    with pytest.raises(BadInput, match="is not a package"):
        serve_package(tmp_path)


def test_one_line_serves_a_package_until_it_is_told_to_stop(exported, tmp_path):
    folder = package_model(
        tmp_path / "package", [exported.artifact], exported.data.encoder, exported.example(), name="digits"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "from fulldeck.instructions.deployment.model_serving_framework import serve_package;"
        f"serve_package({str(folder)!r}, port={port}, workers=1, threads=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert ask(port)["name"] == "digits"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def ask(port: int) -> dict:
    for _ in range(300):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/v2/models/digits")
            response = connection.getresponse()
            body = response.read()
        except OSError:
            pass
        else:
            if response.status == 200:
                return json.loads(body)
        time.sleep(0.1)
    raise AssertionError("the server did not answer")


def test_auto_keeps_what_there_is_unless_another_is_faster_and_answers_the_same(exported):
    made = ModelServingFramework().optimise(exported)
    assert made.artifact.path == exported.artifact.path
    assert made.artifact.precision == "fp32"
    assert made.artifact.engine in ENGINES
    if made.artifact.engine == exported.artifact.engine:
        assert made is exported
    rows = exported.example(20)
    np.testing.assert_allclose(made.run(rows), exported.run(rows), atol=1e-4)


@pytest.mark.skipif(why_not("openvino") is not None, reason="OpenVINO is not here")
def test_auto_leaves_out_an_engine_that_cannot_run_the_model(in_one_engine_only):
    made = ModelServingFramework().optimise(in_one_engine_only)
    assert made.artifact == in_one_engine_only.artifact
    (note,) = made.notes
    assert note.startswith("engine openvino was left out: OpenVINO cannot load model.onnx: ")
    assert "TransposeMatMul" in note


def test_auto_says_so_when_the_present_engine_cannot_run_the_model(exported, tmp_path):
    broken = tmp_path / "model.onnx"
    broken.write_bytes(exported.artifact.path.read_bytes()[:1000])
    artifact = replace(exported.artifact, path=broken)
    with pytest.raises(BadInput, match=r"ONNX Runtime cannot load model\.onnx"):
        ModelServingFramework().optimise(replace(exported, artifacts=(artifact,)))


def test_auto_leaves_a_module_alone(trained):
    assert ModelServingFramework().optimise(trained) is trained


@pytest.mark.skipif(why_not("openvino") is not None, reason="OpenVINO is not here")
def test_a_named_engine_takes_the_artifact_and_both_go_into_the_package(exported, tmp_path):
    instruction = ModelServingFramework(engine="openvino")
    made = instruction.optimise(replace(exported, folder=tmp_path))
    assert (made.artifact.engine, made.artifact.kind, made.artifact.path) == (
        *("openvino", "onnx"),
        exported.artifact.path,
    )
    configured = instruction.configure(Service(made, "digits", tmp_path))
    package = Package.open(ModelPackaging().configure(configured).package)
    assert package.engine().name == "openvino"
    rows = exported.example(3)
    np.testing.assert_allclose(package.engine().run(rows)["output"], exported.run(rows), atol=1e-4)


@pytest.mark.skipif(why_not("openvino") is not None, reason="OpenVINO is not here")
@pytest.mark.slow
def test_four_bits_of_27_run_in_a_named_engine(trained, tmp_path):
    inputs = torch.from_numpy(trained.example(64)["input"])
    integers = convert(prepare_qat(copy.deepcopy(trained.module), inputs, bit_width=4).eval())
    rounded = replace(trained, module=integers, precision="int4", folder=tmp_path)
    exported = OnnxExport().optimise(rounded)
    made = in_engine(exported, "openvino")
    assert (made.artifact.engine, made.artifact.precision) == ("openvino", "int4")
    rows = exported.example(64)
    assert agreement(exported.run(rows), made.run(rows)) >= 0.95


@pytest.mark.skipif(why_not("openvino") is not None, reason="OpenVINO is not here")
def test_a_float16_file_runs_in_a_named_engine(trained, tmp_path):
    lowered = ReducedPrecisionInference(dtype="float16").optimise(replace(trained, folder=tmp_path))
    exported = OnnxExport().optimise(lowered)
    try:
        made = in_engine(exported, "openvino")
    except CannotAct as error:
        if "does not compute in fp16" not in str(error):
            raise
        pytest.skip("this processor has no fp16")
    assert (made.artifact.engine, made.artifact.path) == ("openvino", exported.artifact.path)
    rows = exported.example(20)
    np.testing.assert_allclose(made.run(rows), exported.run(rows), atol=0.1)


@pytest.mark.skipif(why_not("openvino") is not None, reason="OpenVINO is not here")
def test_on_a_machine_without_the_fastest_engine_another_serves_the_package(exported, tmp_path, monkeypatch):
    made = in_engine(replace(exported, folder=tmp_path), "openvino")
    package = Package.open(ModelPackaging().configure(Service(made, "digits", tmp_path)).package)
    monkeypatch.setattr("fulldeck.engines.installed", lambda name: name != "openvino")
    assert package.model().engine == "onnxruntime"
    assert package.engine().name == "onnxruntime"


@pytest.mark.skipif(why_not("tvm") is not None, reason="TVM is not here")
def test_an_engine_of_native_code_compiles_what_it_needs(exported, tmp_path):
    made = in_engine(replace(exported, folder=tmp_path), "tvm")
    assert (made.artifact.kind, made.artifact.path.name) == ("tvm", "model.fp32.tvm")
    rows = exported.example(5)
    np.testing.assert_allclose(made.run(rows), exported.run(rows), atol=1e-4)
    folder = ModelPackaging().configure(Service(made, "digits", tmp_path)).package
    assert Package.open(folder).engine().name == "tvm"


def test_an_engine_that_cannot_is_refused_with_what_to_write(trained, quantised, monkeypatch):
    with pytest.raises(
        CannotAct, match=r"there is no fp32 ONNX file of the model\. onnx_export makes ONNX files"
    ):
        in_engine(trained, "onnxruntime")
    with pytest.raises(CannotAct, match=r"engine tvm has no int8; it has fp32\. Write engine: auto"):
        in_engine(quantised, "tvm")
    monkeypatch.setattr("fulldeck.engines.find_spec", lambda name: None)
    with pytest.raises(
        CannotAct, match="engine openvino is not available: openvino is not installed: pip install"
    ):
        in_engine(quantised, "openvino")
