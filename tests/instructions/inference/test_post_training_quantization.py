from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.instructions.inference.post_training_quantization import PostTrainingQuantization, quantize_onnx


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
