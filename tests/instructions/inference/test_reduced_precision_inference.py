import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from fulldeck.candidate import Candidate
from fulldeck.data import Data, Examples
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.engines import open_onnx
from fulldeck.engines.shapes import shapes_of
from fulldeck.engines.source import Source
from fulldeck.engines.torch_compiled import export_program
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.inference.onnx_export import OnnxExport, export_onnx
from fulldeck.instructions.inference.post_training_quantization import PostTrainingQuantization
from fulldeck.instructions.inference.reduced_precision_inference import (
    ReducedPrecisionInference,
    lower_precision,
    precision_sensitivity,
)
from fulldeck.pipeline.gate import breaches, measure
from fulldeck.pipeline.run import plan
from fulldeck.workload import usual_metrics


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "bf16"), ("float16", "fp16")])
def test_half_of_the_bytes_for_the_same_answers(dtype, precision, trained, tmp_path):
    instruction = ReducedPrecisionInference(dtype=dtype)
    made = instruction.optimise(replace(trained, folder=tmp_path))
    metrics = usual_metrics("classification")
    before, after = measure(trained, metrics), measure(made, metrics)
    assert made.precision == precision
    assert after.bytes <= 0.51 * before.bytes
    assert breaches(before, after, instruction.tolerance()) == []
    assert after.outputs.dtype == np.float32
    assert made.notes == ()


def test_the_module_itself_is_not_changed(trained):
    before = {name: value.clone() for name, value in trained.module.state_dict().items()}
    lower_precision(trained.module, keep=["head"])
    precision_sensitivity(trained.module, torch.from_numpy(trained.example(8)["input"]))
    for name, value in trained.module.state_dict().items():
        assert torch.equal(before[name], value)
        assert before[name].dtype == value.dtype


def test_float16_is_exported_and_checked(trained, tmp_path):
    made = ReducedPrecisionInference(dtype="float16", keep=("head",)).optimise(
        replace(trained, folder=tmp_path)
    )
    exported = OnnxExport().optimise(made)
    assert exported.artifact.precision == "fp16"
    whole = sum(4 * value.numel() for value in trained.module.state_dict().values())
    assert exported.artifact.bytes < 0.55 * whole
    types = {t.name: t.data_type for t in onnx.load(exported.artifact.path).graph.initializer}
    assert types["head.weight"] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.FLOAT16 in types.values()
    for rows in (1, 3, 17):
        got, expected = exported.run(trained.example(rows)), trained.run(trained.example(rows))
        assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


def test_what_is_kept_becomes_one_graph_with_the_rest(trained):
    """As engines that compile native code want it."""
    module = lower_precision(trained.module, "bfloat16", keep=["head"])
    example = trained.example(4)
    program = export_program(module, Source(example, shapes_of(example)))
    rows = torch.from_numpy(trained.example(5)["input"])
    assert torch.equal(program.module()(rows), module(rows))


class Overflowing(nn.Module):
    """Its middle layer's outputs are too large for float16, and the next takes them back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.large, self.last = (nn.Linear(8, 8, bias=False) for _ in range(3))
        with torch.no_grad():
            for layer, factor in ((self.first, 1.0), (self.large, 1e6), (self.last, 1e-6)):
                layer.weight.copy_(factor * torch.eye(8))

    def forward(self, input: Tensor) -> Tensor:
        """N x 8."""
        return self.last(self.large(self.first(input)))


@pytest.fixture
def overflowing(tmp_path):
    rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    examples = Examples(rows, rows.argmax(axis=1))
    names = tuple("abcdefgh")
    data = Data("rows", "tensor", "classification", examples, examples, examples, names, TensorEncoder((8,)))
    return Candidate("rows", Overflowing().eval(), data, tmp_path)


def test_layers_that_overflow_stay_in_float32(overflowing):
    made = ReducedPrecisionInference(dtype="float16").optimise(overflowing)
    inputs = overflowing.example(300)
    assert (made.run(inputs).argmax(axis=1) == overflowing.run(inputs).argmax(axis=1)).mean() >= 0.99
    assert made.notes[0].startswith("reduced_precision_inference leaves 2 of 3 layers in float32: ")
    report = json.loads((overflowing.folder / "precision.json").read_text())
    assert set(report["kept"]) == {"large", "last"}
    assert report["layers"]["large"] == "overflows"
    assert isinstance(report["layers"]["first"], float)


def test_bfloat16_has_the_range(overflowing):
    made = ReducedPrecisionInference(agreement=0.9, metric_drop=0.1).optimise(overflowing)
    assert np.isfinite(made.run(overflowing.example(300))).all()
    assert made.notes == ()


def test_bfloat16_and_an_export_exclude_each_other():
    with pytest.raises(BadInput, match="lack operators for files in bfloat16; write dtype: float16"):
        plan("digits", [ReducedPrecisionInference(), OnnxExport()])
    steps = plan("digits", [OnnxExport(), ReducedPrecisionInference(dtype="float16")]).steps
    assert [step.label for step in steps] == ["reduced_precision_inference", "onnx_export"]


def test_two_conversions_of_one_model_are_refused():
    with pytest.raises(BadInput, match="both convert the dtype"):
        plan("digits", [ReducedPrecisionInference(dtype="float16"), OnnxExport(), PostTrainingQuantization()])


def test_what_is_exported_or_lowered_already_is_refused(trained, exported):
    with pytest.raises(CannotAct, match="has been exported already"):
        ReducedPrecisionInference().optimise(exported)
    with pytest.raises(CannotAct, match="is bf16 already"):
        ReducedPrecisionInference().optimise(replace(trained, precision="bf16"))


def test_an_unknown_module_is_refused_with_the_closest(trained):
    with pytest.raises(BadInput, match='no module "haed" to keep; did you mean head'):
        lower_precision(trained.module, keep=["haed"])


def test_a_user_exports_an_own_model_in_float16(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4)).eval()
    rows = torch.randn(20, 16)
    low = lower_precision(model, "float16", keep=["1"])
    path = export_onnx(low, rows, tmp_path / "model.onnx", max_difference=1e-2).path
    (got,) = open_onnx(path).run({"input": rows.numpy()}).values()
    assert np.abs(got - model(rows).detach().numpy()).max() < 1e-2
