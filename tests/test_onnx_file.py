from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fulldeck import onnx_file
from fulldeck.candidate import Artifact
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.engines import open_model, open_onnx
from fulldeck.errors import BadInput, RunFailed
from fulldeck.instructions.deployment.model_packaging import package_model
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.instructions.inference.post_training_quantization import quantize_onnx
from fulldeck.package import Package


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4)).eval(), torch.randn(40, 64)


@pytest.fixture
def large(model, tmp_path, monkeypatch) -> Path:
    """An export whose weights lie beside it, as if they were beyond 2 GB."""
    monkeypatch.setattr(onnx_file, "LIMIT", 1_000)
    return export_onnx(*model, tmp_path / "model.onnx").path


def test_weights_lie_beside_the_file_and_every_engine_finds_them(large, model):
    assert sorted(one.name for one in large.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert large.stat().st_size < 10_000
    module, rows = model
    expected = module(rows).detach().numpy()
    for engine in ("onnxruntime", "openvino"):
        loaded = open_model(large, kind="onnx", precision="fp32", engine=engine)
        assert np.allclose(loaded.run({"input": rows.numpy()})["output"], expected, atol=1e-4)


def test_they_count_and_go_into_a_package_that_guards_them(large, model, tmp_path):
    artifact = Artifact(large, "onnx", "fp32", "onnxruntime")
    assert artifact.bytes > 60_000
    example = {"input": model[1][:4].numpy()}
    folder = package_model(tmp_path / "package", [artifact], TensorEncoder((64,)), example, name="rows")
    assert np.allclose(
        Package.open(folder).engine().run(example)["output"], model[0](model[1][:4]).detach(), atol=1e-4
    )
    data = folder / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(BadInput, match=r"model\.onnx\.data"):
        Package.open(folder)


def test_they_are_quantised(large, model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LIMIT", 2**31)
    rows = {"input": model[1].numpy()}
    small = quantize_onnx(large, tmp_path / "small.onnx", rows)
    got = open_onnx(small).run(rows)["output"]
    assert np.abs(got - model[0](model[1]).detach().numpy()).max() < 0.1
    assert not (tmp_path / "small.onnx.data").exists()


def test_a_smaller_model_takes_the_old_weights_away(large, model, monkeypatch):
    monkeypatch.setattr(onnx_file, "LIMIT", 2**31)
    export_onnx(*model, large)
    assert [one.name for one in large.parent.iterdir()] == ["model.onnx"]


def test_what_is_not_the_model_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LIMIT", 1_000)
    with pytest.raises(RunFailed):
        onnx_file.write_onnx(onnx_of(model, tmp_path / "other"), tmp_path / "model.onnx", refuse)
    assert not list(tmp_path.glob("*model.onnx*"))


def onnx_of(model, folder: Path) -> onnx.ModelProto:
    folder.mkdir()
    return onnx.load(export_onnx(*model, folder / "m.onnx").path)


def refuse(path: Path) -> None:
    raise RunFailed("it is not the same")


@pytest.mark.slow
def test_more_than_two_gigabytes_truly(tmp_path):
    model = nn.Sequential(nn.Linear(64, 24_000, bias=False), nn.Linear(24_000, 24_000, bias=False)).eval()
    rows = torch.randn(17, 64)
    path = export_onnx(model, rows, tmp_path / "model.onnx", max_difference=1e-3).path
    assert path.with_name("model.onnx.data").stat().st_size > 2**31
    with torch.inference_mode():
        assert np.allclose(open_onnx(path).run({"input": rows.numpy()})["output"], model(rows), atol=1e-3)
