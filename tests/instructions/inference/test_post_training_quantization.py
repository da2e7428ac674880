import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fulldeck.candidate import Candidate
from fulldeck.data import Data, Examples
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.engines import open_model, open_onnx, why_not
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.inference.onnx_export import OnnxExport, export_onnx
from fulldeck.instructions.inference.post_training_quantization import (
    PostTrainingQuantization,
    quantizable_layers,
    quantize_module,
    quantize_onnx,
)
from fulldeck.networks import build
from fulldeck.quantization.budget import fewest_spared


def weights(path) -> dict[str, int]:
    """Bytes of the initialisers by type."""
    sizes: dict[str, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        sizes[name] = sizes.get(name, 0) + onnx.numpy_helper.to_array(tensor).nbytes
    return sizes


def test_static_int8_is_at_least_three_and_a_half_times_smaller(exported, quantised):
    assert quantised.artifact.precision == "int8"
    assert exported.artifact.bytes >= 3.5 * quantised.artifact.bytes


def test_at_most_half_a_point_is_lost(exported, quantised, accuracy):
    assert accuracy(exported) > 0.95
    assert accuracy(quantised) >= accuracy(exported) - 0.005


def test_weights_are_int8_with_one_scale_a_channel(quantised):
    sizes = weights(quantised.artifact.path)
    assert sizes["INT8"] > 300_000
    assert sizes["FLOAT"] < 10_000
    scales = {t.name: t.dims for t in onnx.load(quantised.artifact.path).graph.initializer}
    assert list(scales["blocks.2.conv2.weight_scale"]) == [128]


def test_any_batch_size_still_works_and_metadata_is_kept(exported, quantised):
    assert quantised.run(quantised.example(1)).shape == (1, 10)
    assert quantised.run(quantised.example(19)).shape == (19, 10)
    before, after = (onnx.load(c.artifact.path).metadata_props for c in (exported, quantised))
    assert {(p.key, p.value) for p in before} == {(p.key, p.value) for p in after}


def test_dynamic_needs_no_calibration(exported, tmp_path, accuracy):
    candidate = replace(exported, folder=tmp_path)
    dynamic = PostTrainingQuantization(mode="dynamic").optimise(candidate)
    assert exported.artifact.bytes >= 3.5 * dynamic.artifact.bytes
    assert accuracy(dynamic) >= accuracy(exported) - 0.005


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_ranges_work_too_and_say_nothing(method, exported, tmp_path, accuracy, capfd):
    candidate = replace(exported, folder=tmp_path)
    other = PostTrainingQuantization(method=method, calibration_samples=50).optimise(candidate)
    assert accuracy(other) >= accuracy(exported) - 0.02
    assert capfd.readouterr() == ("", "")


def test_it_is_reproducible(exported, quantised, tmp_path):
    again = PostTrainingQuantization().optimise(replace(exported, folder=tmp_path))
    assert again.artifact.path.read_bytes() == quantised.artifact.path.read_bytes()


def test_without_an_onnx_file_the_remedy_is_named(trained):
    with pytest.raises(CannotAct, match="no ONNX file to quantise; add onnx_export"):
        PostTrainingQuantization().optimise(trained)


def test_twice_is_refused(quantised):
    with pytest.raises(CannotAct, match="int8 already"):
        PostTrainingQuantization().optimise(quantised)


def test_too_few_or_one_sided_calibration_is_refused(exported):
    few = replace(exported.data, train=exported.data.train.take(np.arange(40)))
    with pytest.raises(BadInput, match="calibration_samples is 256, and there are 40 training examples"):
        PostTrainingQuantization(calibration_samples=256).optimise(replace(exported, data=few))
    zeros = replace(exported.data, train=exported.data.train.take(exported.data.train.targets == 0))
    with pytest.raises(BadInput, match="are of one class"):
        PostTrainingQuantization(calibration_samples=32).optimise(replace(exported, data=zeros))


def test_the_default_number_of_calibration_rows_bows_to_small_data(exported):
    few = replace(exported.data, train=exported.data.train.take(np.arange(40)))
    assert PostTrainingQuantization().optimise(replace(exported, data=few)).artifact.precision == "int8"


def test_static_without_calibration_rows_is_refused(exported, tmp_path):
    with pytest.raises(BadInput, match=r"none\.onnx does not exist; export_onnx writes such a file"):
        quantize_onnx(tmp_path / "none.onnx", tmp_path / "small.onnx")
    with pytest.raises(BadInput, match="needs calibration rows"):
        quantize_onnx(exported.artifact.path, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_it_goes_after_the_export_and_may_lose_what_it_says():
    after, _ = PostTrainingQuantization().order()
    assert "onnx_export" in after
    assert PostTrainingQuantization(metric_drop=0.02).tolerance().metric_drop == 0.02


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(input))


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_users_own_model_without_a_word_on_the_console(mode, tmp_path, capfd, caplog):
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    model = Normed().eval()
    path = export_onnx(model, rows, tmp_path / "model.onnx").path
    small = quantize_onnx(path, tmp_path / "small.onnx", {"input": rows.numpy()}, mode=mode)
    session = onnxruntime.InferenceSession(small)
    (got,) = session.run(None, {"input": rows.numpy()})
    assert np.allclose(got, model(rows).detach(), atol=0.1)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


# What can be asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bit_width": 4}, "bit_width 4 needs mode: weights; no engine has kernels for static"),
        (
            {"bit_width": 4, "mode": "dynamic"},
            "bit_width 4 needs mode: weights; no engine has kernels for dynamic",
        ),
        ({"backend": "nncf", "mode": "dynamic"}, "backend nncf quantises statically; leave mode dynamic out"),
        ({"backend": "torch", "mode": "weights"}, "backend torch quantises statically"),
        (
            {"backend": "torch", "method": "percentile"},
            "backend torch has no method percentile; write entropy or minmax",
        ),
        ({"backend": "auto", "mode": "weights"}, "backend auto tries every mode"),
    ],
)
def test_what_no_quantiser_has_is_refused_before_anything_is_trained(parameters, message):
    with pytest.raises(BadInput, match=f"post_training_quantization.{message}"):
        PostTrainingQuantization(**parameters)


def test_the_function_refuses_four_bit_activations_too(exported, tmp_path):
    with pytest.raises(CannotAct, match="no engine here has kernels for static quantisation with 4 bits"):
        quantize_onnx(exported.artifact.path, tmp_path / "out.onnx", bit_width=4)


# Weights only ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """A model of matrix products alone, exported, and rows for it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 8)
    ).eval()
    rows = torch.randn(48, 64)
    path = export_onnx(model, rows, tmp_path_factory.mktemp("products") / "model.onnx").path
    return path, {"input": rows.numpy()}


@pytest.mark.parametrize(("bits", "size", "error"), [(8, 0.35, 0.02), (4, 0.2, 0.12)])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_alone_in_few_bits(bits, size, error, engine, products, tmp_path):
    path, rows = products
    small = quantize_onnx(path, tmp_path / "small.onnx", mode="weights", bit_width=bits)
    assert small.stat().st_size <= size * path.stat().st_size
    loaded = open_model(small, kind="onnx", precision=f"int{bits}", engine=engine)
    expected = outputs(path, rows)
    assert relative(loaded.run(rows)["output"], expected) < error


def test_convolutions_have_no_kernels_of_weights_alone(exported, tmp_path):
    candidate = replace(exported, folder=tmp_path)
    with pytest.raises(
        CannotAct,
        match=r"kernels of 4-bit weights for matrix products, and 100% of this model's weights are of conv",
    ):
        PostTrainingQuantization(mode="weights", bit_width=4).optimise(candidate)
    assert not list(tmp_path.iterdir())


# Other quantisers --------------------------------------------------------------------------------------


def test_nncf_quantises_the_file_and_spares_what_it_is_told(exported, tmp_path, accuracy):
    candidate = replace(exported, folder=tmp_path)
    made = PostTrainingQuantization(backend="nncf", keep=("head",), calibration_samples=64).optimise(
        candidate
    )
    assert exported.artifact.bytes >= 3 * made.artifact.bytes
    assert accuracy(made) >= accuracy(exported) - 0.005
    kept = {t.name: t.data_type for t in onnx.load(made.artifact.path).graph.initializer}
    assert kept["head.weight"] == onnx.TensorProto.FLOAT


def test_torch_quantises_the_module_before_its_export(trained, tmp_path, accuracy):
    instruction = PostTrainingQuantization(backend="torch", calibration_samples=64)
    assert "onnx_export" in instruction.order()[1]
    made = instruction.optimise(replace(trained, folder=tmp_path))
    assert made.precision == "int8"
    assert accuracy(made) >= accuracy(trained) - 0.005
    file = OnnxExport().optimise(made)
    assert file.artifact.precision == "int8"
    assert weights(file.artifact.path)["INT8"] > 300_000
    assert accuracy(file) >= accuracy(trained) - 0.005


def test_torch_after_the_export_is_refused(exported):
    with pytest.raises(CannotAct, match="exported already; write backend: onnxruntime"):
        PostTrainingQuantization(backend="torch").optimise(exported)


def test_a_module_is_not_changed_and_layers_can_be_spared():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    integers = quantize_module(model, torch.randn(20, 8), keep=("2",))
    assert sum(value.dtype == torch.int8 for value in integers.state_dict().values()) == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(BadInput, match='there is no layer "O" to keep'):
        quantize_module(model, torch.randn(20, 8), keep=("O",))


@pytest.mark.skipif(why_not("openvino") is not None, reason="OpenVINO is not here")
def test_auto_leaves_out_an_engine_that_cannot_run_the_form(in_one_engine_only):
    quantise = PostTrainingQuantization(backend="auto", calibration_samples=64, metric_drop=1)
    try:
        (told,) = quantise.optimise(in_one_engine_only).notes
    except CannotAct as error:  # whether int8 is faster depends on the machine
        told = str(error)
    assert "onnxruntime model.onnx" in told
    assert "openvino model.static.int8.onnx was left out: OpenVINO cannot load" in told


def test_auto_takes_the_fastest_form_that_keeps_the_metric(exported, tmp_path, accuracy):
    candidate = replace(exported, folder=tmp_path)
    made = PostTrainingQuantization(backend="auto", calibration_samples=64).optimise(candidate)
    assert made.artifact.precision == "int8"
    assert accuracy(made) >= accuracy(exported) - 0.005
    assert made.notes[-1].startswith("post_training_quantization took the fastest: ")


# Sensitive layers --------------------------------------------------------------------------------------


class Fragile(nn.Module):
    """Tells two classes apart by what the 8 bits of its middle layer cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fragile, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        for layer in (self.first, self.fragile):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.fragile.weight[1:3, 0] = 2_000.0  # one scale for a row: what is 1 rounds to nothing
            self.last.weight.zero_()
            self.last.weight[1, 1] = 1.0
            self.last.weight[1, 2] = -1.0
            self.last.bias.zero_()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """N x 2."""
        return self.last(self.fragile(self.first(input)))


@pytest.fixture
def fragile(tmp_path):
    """A candidate whose accuracy hangs on one layer."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 16)).astype(np.float32)
    rows[:, 0] = 0
    rows[:, 1] = rows[:, 2] + np.where(rows[:, 1] > rows[:, 2], 0.5, -0.5)
    examples = Examples(rows, (rows[:, 1] > rows[:, 2]).astype(np.int64))
    data = Data(
        "rows", "tensor", "classification", examples, examples, examples, ("no", "yes"), TensorEncoder((16,))
    )
    candidate = Candidate("rows", Fragile().eval(), data, tmp_path)
    assert accuracy_of(candidate) == 1
    return candidate


def accuracy_of(candidate) -> float:
    rows = candidate.judged
    return float((candidate.run(candidate.encoded(rows)).argmax(axis=1) == rows.targets).mean())


@pytest.mark.parametrize("backend", ["onnxruntime", "nncf", "torch"])
def test_the_layer_that_the_metric_hangs_on_stays_in_float(backend, fragile):
    candidate = fragile if backend == "torch" else OnnxExport().optimise(fragile)
    one_size = PostTrainingQuantization(backend=backend, mixed=False).optimise(candidate)
    assert accuracy_of(one_size) < 0.9
    made = PostTrainingQuantization(backend=backend, metric_drop=0.02).optimise(candidate)
    assert accuracy_of(made) >= 0.98
    assert made.notes == (
        "post_training_quantization leaves 1 of 3 layers in float to keep the metric: fragile",
    )
    report = json.loads((fragile.folder / "sensitivity.json").read_text())
    assert report["kept"] == ["fragile"]
    assert next(iter(report["layers"])) == "fragile"


def test_a_layer_in_float_is_in_float_in_the_engine_too(fragile):
    candidate = OnnxExport().optimise(fragile)
    made = PostTrainingQuantization(keep=("fragile",), mixed=False).optimise(candidate)
    # ONNX Runtime rounds weights of layers between rounded tensors by itself.
    assert accuracy_of(made) >= 0.98


def test_the_metric_is_the_workloads_own(fragile):
    candidate = replace(OnnxExport().optimise(fragile), judged_by={"error": lambda outputs, targets: 0.5})
    assert PostTrainingQuantization().optimise(candidate).notes == ()


def test_what_each_layer_changes_is_written_where_it_is_asked_for(exported, tmp_path):
    candidate = replace(exported, folder=tmp_path)
    PostTrainingQuantization(sensitivity=True, calibration_samples=32).optimise(candidate)
    report = json.loads((tmp_path / "sensitivity.json").read_text())
    assert set(report["layers"]) == set(quantizable_layers(exported.artifact.path))
    assert list(report["layers"].values()) == sorted(report["layers"].values(), reverse=True)
    assert report["kept"] == []


def test_the_fewest_layers_are_spared():
    layers = [str(place) for place in range(20)]
    for needed in range(1, 20):
        assert fewest_spared(layers, lambda some, needed=needed: len(some) >= needed) == layers[:needed]
    assert fewest_spared(layers, lambda some: False) is None
    assert fewest_spared(["only"], lambda some: True) is None


def test_an_unknown_layer_is_refused_with_the_closest(exported, tmp_path):
    with pytest.raises(BadInput, match='there is no layer "haed" to keep; did you mean head'):
        PostTrainingQuantization(keep=("haed",)).optimise(replace(exported, folder=tmp_path))


# Transformers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outliers(tmp_path_factory):
    """A small GPT of which two channels are far larger than the others, as in large ones."""
    torch.manual_seed(0)
    arguments = {"vocabulary": 50, "length": 12, "width": 32, "layers": 2, "heads": 2}
    model = build({"network": "gpt", "arguments": arguments}).eval()
    with torch.no_grad():
        for one in model.modules():
            if isinstance(one, nn.LayerNorm):
                one.weight[3:5] *= 60
            if isinstance(one, nn.Linear) and one.in_features == 32:
                one.weight[:, 3:5] /= 60
    ids = torch.randint(50, (20, 12))
    path = export_onnx(model, ids, tmp_path_factory.mktemp("gpt") / "model.onnx").path
    return path, {"input": ids.numpy()}


def test_smoothing_takes_most_of_the_error_of_outliers(outliers, tmp_path):
    path, rows = outliers
    expected = outputs(path, rows)
    plain = quantize_onnx(path, tmp_path / "plain.onnx", rows)
    smooth = quantize_onnx(path, tmp_path / "smooth.onnx", rows, smooth=0.5)
    assert relative(outputs(plain, rows), expected) > 0.1
    assert relative(outputs(smooth, rows), expected) < 0.05


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_transformer_in_integers_is_near_in_every_engine(engine, outliers, tmp_path):
    path, rows = outliers
    small = quantize_onnx(path, tmp_path / "small.onnx", rows, smooth=0.5)
    loaded = open_model(small, kind="onnx", precision="int8", engine=engine)
    assert relative(loaded.run(rows)["output"], outputs(path, rows)) < 0.06


def outputs(path, rows):
    return open_onnx(path).run(rows)["output"]


def relative(got, expected) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())
