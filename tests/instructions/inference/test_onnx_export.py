from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from fulldeck.encoders.table import TableEncoder
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.errors import BadInput, CannotAct, RunFailed
from fulldeck.instructions.inference.onnx_export import OnnxExport, embed_preprocessing, export_onnx
from fulldeck.networks import build


@pytest.fixture(scope="module")
def proto(exported) -> onnx.ModelProto:
    return onnx.load(exported.artifact.path)


def test_the_artifact_says_what_it_is(exported):
    artifact = exported.artifact
    assert (artifact.kind, artifact.precision, artifact.engine) == ("onnx", "fp32", "onnxruntime")
    assert artifact.path == exported.folder / "model.onnx"


def test_outputs_are_the_modules_at_any_batch_size(trained, exported):
    for batch in (1, 2, 5, 64):
        inputs = trained.example(batch)
        assert np.allclose(exported.run(inputs), trained.run(inputs), atol=1e-4)


def test_names_and_free_batch(proto, trained):
    (entry,), (output,) = proto.graph.input, proto.graph.output
    assert entry.name in trained.example()
    assert output.name == "output"
    assert entry.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert output.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_file_tells_task_and_classes(proto):
    facts = {prop.key: prop.value for prop in proto.metadata_props}
    assert facts["task"] == "classification"
    assert facts["classes"] == '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'
    assert {"name", "fulldeck", "torch"} <= set(facts)


def test_the_file_has_no_source_paths_in_it(exported):
    content = exported.artifact.path.read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content


def test_nothing_else_is_left_in_the_folder(exported):
    assert not [path for path in exported.folder.iterdir() if path.suffix not in (".onnx",)]


def test_the_model_is_not_changed_and_nothing_is_printed(tmp_path, capfd):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    export = export_onnx(model, torch.randn(17, 4), tmp_path / "m.onnx", opset=18)
    assert model.training
    assert model[1].training
    assert export.path.is_file()
    assert set(export.differences) == {1, 3, 17}
    assert onnx.load(export.path).opset_import[0].version == 18
    assert capfd.readouterr() == ("", "")


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)

    def forward(self, numeric: Tensor, codes: Tensor) -> Tensor:
        return numeric + self.embed(codes).sum(dim=1)


def test_several_inputs_keep_their_names_in_any_order(tmp_path):
    random = np.random.default_rng(0)
    example = {
        "codes": random.integers(0, 5, (20, 2)),
        "numeric": random.normal(size=(20, 3)).astype(np.float32),
    }
    model = TwoInputs()
    path = export_onnx(model, example, tmp_path / "m.onnx").path
    session = onnxruntime.InferenceSession(path)
    assert {entry.name for entry in session.get_inputs()} == {"numeric", "codes"}
    expected = model(**{name: torch.from_numpy(value) for name, value in example.items()})
    assert np.allclose(session.run(None, example)[0], expected.detach(), atol=1e-6)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class ReturnsMapping(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x}


class NoOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x @ x.transpose(1, 2)).real


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Identity(), Branches()), r"at 1 \(Branches, .*depends on values of the data"),
        (ReturnsMapping(), "must return one tensor to be exported, and returns dict"),
        (nn.Sequential(nn.Identity(), NoOperator()), r"operator aten\.linalg_eig of 1 has no form there"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(model, reason, tmp_path):
    with pytest.raises(CannotAct, match=reason) as caught:
        export_onnx(model, torch.randn(20, 3, 3), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class FixesTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


def test_an_export_that_computes_something_else_is_not_written(tmp_path):
    with pytest.raises(RunFailed, match=r"differs from the module by .* at batch 1"):
        export_onnx(Noise(), torch.randn(20, 3), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_with_a_fixed_batch_is_refused(tmp_path):
    with pytest.raises(CannotAct, match="the model itself does not run at batch 1"):
        export_onnx(FixesTheBatch(), torch.randn(20, 3), tmp_path / "m.onnx")


def test_an_operator_set_out_of_range_is_refused():
    with pytest.raises(BadInput, match=r"onnx_export.opset must be between 18 and 23, got 9"):
        OnnxExport(opset=9)


@pytest.fixture(scope="module")
def gpt():
    torch.manual_seed(0)
    arguments = {"vocabulary": 50, "length": 12, "width": 32, "layers": 2, "heads": 2}
    return build({"network": "gpt", "arguments": arguments}).eval(), torch.randint(50, (20, 12))


def test_tokens_of_any_length(gpt, tmp_path):
    model, ids = gpt
    path = export_onnx(model, ids, tmp_path / "m.onnx", dynamic="length").path
    session = onnxruntime.InferenceSession(path)
    assert [one.shape for one in session.get_inputs()] == [["batch", "length"]]
    for batch, length in ((1, 2), (3, 7), (17, 12)):
        rows = ids[:batch, :length]
        (got,) = session.run(None, {"input": rows.numpy()})
        assert np.allclose(got, model(rows).detach(), atol=1e-4)


def test_a_free_length_is_for_tokens(tmp_path):
    with pytest.raises(CannotAct, match="a free length is for tokens"):
        export_onnx(nn.Linear(4, 3), torch.randn(20, 4), tmp_path / "m.onnx", dynamic="length")


class FixesTheLength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 4), nn.Linear(48, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).flatten(1))


def test_a_model_of_one_length_says_so(gpt, tmp_path):
    with pytest.raises(CannotAct, match=r"cannot be (exported|captured)|does not run at"):
        export_onnx(FixesTheLength(), gpt[1], tmp_path / "m.onnx", dynamic="length")
    assert not list(tmp_path.iterdir())


def test_weights_have_the_names_of_their_modules(gpt, tmp_path):
    model, ids = gpt
    path = export_onnx(model, ids, tmp_path / "m.onnx").path
    names = {tensor.name for tensor in onnx.load(path).graph.initializer}
    layers = {f"{name}.weight" for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    assert layers <= names | {"head.weight"}


def test_pixels_go_into_a_file_with_its_preprocessing(trained, tmp_path):
    made = OnnxExport(preprocessing=True).optimise(replace(trained, folder=tmp_path))
    assert made.notes == ("model.raw.onnx takes raw values, and is for use without fulldeck",)
    assert made.artifact.path.name == "model.onnx"
    session = onnxruntime.InferenceSession(tmp_path / "model.raw.onnx")
    (entry,) = session.get_inputs()
    assert entry.type == "tensor(uint8)"
    rows = trained.judged.take(np.arange(7))
    (got,) = session.run(None, {entry.name: rows.inputs})
    assert np.allclose(got, trained.run(trained.encoded(rows)), atol=1e-4)


def test_columns_of_a_table_go_into_a_file_with_its_preprocessing(tmp_path):
    random = np.random.default_rng(0)
    age = random.normal(40, 10, 60)
    age[::7] = np.nan
    town = np.array([("Bern", "Rome", None)[i % 3] for i in range(60)], dtype=object)
    encoder = TableEncoder.fit({"age in years": age, "town": town})
    torch.manual_seed(0)
    model = nn.Linear(encoder.width, 2).eval()
    columns = {"age in years": age, "town": np.array([*town[:58], "Oslo", "Bern"], dtype=object)}
    encoded = encoder.encode(columns)["input"]
    path = export_onnx(model, torch.from_numpy(encoded), tmp_path / "m.onnx").path
    raw = embed_preprocessing(path, encoder, tmp_path / "raw.onnx")
    texts = np.array(["" if one is None else one for one in columns["town"]], dtype=object)
    session = onnxruntime.InferenceSession(raw)
    (got,) = session.run(None, {"age in years": age, "town": texts})
    assert np.allclose(got, model(torch.from_numpy(encoded)).detach(), atol=1e-5)


def test_preprocessing_of_texts_is_not_for_a_graph(exported, tmp_path):
    with pytest.raises(CannotAct, match="preprocessing of tensor has no operators in ONNX"):
        embed_preprocessing(exported.artifact.path, TensorEncoder((4,)), tmp_path / "raw.onnx")
