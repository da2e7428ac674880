import collections
import copy
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.data.auto_data_augmentation import adversarial
from fulldeck.instructions.inference.onnx_export import OnnxExport, export_onnx
from fulldeck.instructions.inference.quantization_aware_training import (
    QuantizationAwareTraining,
    convert,
    prepare_qat,
)
from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.early_stopping import EarlyStopping
from fulldeck.instructions.training.gradient_checkpointing import GradientCheckpointing
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.networks.residual_net import ResidualNet
from fulldeck.networks.text_transformer import TextTransformer
from fulldeck.training.loop import TrainingLoop
from tests.interruption import interrupt


def net(seed: int = 0) -> ResidualNet:
    torch.manual_seed(seed)
    return ResidualNet(1, 3, widths=(4, 8))


def pictures(rows: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(rows) % 3
    inputs = torch.randn(rows, 1, 8, 8, generator=generator)
    inputs[:, 0, :2, :2] += targets[:, None, None] * 2.0
    return inputs, targets


def batches(size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    inputs, targets = pictures()
    return [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]


@pytest.fixture(scope="module")
def prepared():
    model = prepare_qat(net().train(), pictures()[0], bit_width=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for inputs, targets in batches() * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def integers(prepared):
    return convert(prepared)


def kernels(path, folder) -> collections.Counter:
    """The operators that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options)
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_the_converted_model_computes_what_was_trained(prepared, integers):
    inputs = pictures()[0]
    assert torch.allclose(integers(inputs), prepared(inputs), atol=1e-4)
    assert integers(inputs[:1]).shape == (1, 3)


def test_all_weights_are_integers_with_a_scale_a_channel_and_batch_norm_is_gone(integers):
    state = integers.state_dict()
    weights = [t for t in state.values() if t.dtype == torch.int8]
    assert len(weights) == 7  # six convolutions and the head
    assert not [n for n in state if "running" in n]
    scales = {tuple(t.shape) for n, t in state.items() if n.startswith("_scale")}
    assert scales == {(4,), (8,), (3,)}


def test_an_engine_runs_it_with_integer_kernels(integers, tmp_path):
    path = export_onnx(integers, pictures()[0], tmp_path / "m.onnx", max_difference=0.05).path
    found = kernels(path, tmp_path)
    assert found["QLinearConv"] == 6
    assert found["QLinearAdd"] == 2
    assert found["QGemm"] == 1
    assert not found["Conv"] + found["Gemm"] + found["MatMul"]


def test_a_transformer_multiplies_integers_and_looks_up_integers(tmp_path):
    torch.manual_seed(0)
    tokens = torch.randint(1, 300, (32, 6))
    model = prepare_qat(TextTransformer(300, 6, 2, width=16, layers=1, heads=2), tokens)
    integers = convert(model.eval())
    assert torch.allclose(integers(tokens), model(tokens), atol=1e-4)
    path = export_onnx(integers, tokens, tmp_path / "m.onnx", max_difference=0.05).path
    assert kernels(path, tmp_path)["MatMulIntegerToFloat"] == 4
    table = max(onnx.load(path).graph.initializer, key=lambda t: np.prod(t.dims))
    assert list(table.dims) == [300, 16]
    assert table.data_type == onnx.TensorProto.INT8


def test_four_bits_are_stored_in_four_bits_and_computed_in_eight(tmp_path):
    model = prepare_qat(net().train(), pictures()[0], bit_width=4)
    integers = convert(model.eval())
    assert max(int(t.abs().max()) for t in integers.state_dict().values() if t.dtype == torch.int8) <= 7
    path = export_onnx(integers, pictures()[0], tmp_path / "m.onnx", max_difference=0.05).path
    types = collections.Counter(t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) > 1)
    assert types[onnx.TensorProto.INT4] == 7
    assert not types[onnx.TensorProto.INT8]
    assert kernels(path, tmp_path)["QLinearConv"] == 6


def test_another_epsilon_of_batch_norm_is_kept():
    model = net().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 0.3, 0.5
    inputs = pictures()[0]
    expected = model(inputs)
    prepared = prepare_qat(model, inputs)
    assert (prepared(inputs) - expected).abs().max() < 0.05 * expected.abs().max()
    assert torch.allclose(convert(prepared)(inputs), prepared.eval()(inputs), atol=1e-4)


def test_preparing_leaves_the_statistics_alone_and_evaluation_moves_nothing():
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    prepared = prepare_qat(model, pictures()[0])
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    state = copy.deepcopy(prepared.eval().state_dict())
    prepared(pictures()[0] * 9)
    assert all(torch.equal(state[n], t) for n, t in prepared.state_dict().items())
    prepared.train()(pictures()[0] * 9)
    ranges = [n for n in state if n.endswith("max_val") and state[n].numel() == 1]
    assert any(not torch.equal(state[n], prepared.state_dict()[n]) for n in ranges)


def test_adversarial_samples_are_sought_without_moving_statistics_and_ranges():
    prepared = prepare_qat(net().train(), pictures()[0])
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    images, labels = pictures()
    moved = adversarial(prepared, images, labels, epsilon=0.1, steps=2)
    assert not torch.equal(moved, images)
    assert all(torch.equal(value, before[name]) for name, value in prepared.state_dict().items())
    prepared(images)
    assert any(not torch.equal(value, before[name]) for name, value in prepared.state_dict().items())


def test_what_is_frozen_follows_no_batch_and_its_weights_still_learn():
    prepared = prepare_qat(net().train(), pictures()[0])
    prepared.freeze()
    state = copy.deepcopy({n: b for n, b in prepared.named_buffers() if "running" in n or "max_val" in n})
    prepared(pictures()[0] * 9).sum().backward()
    now = dict(prepared.named_buffers())
    assert all(torch.equal(t, now[n]) for n, t in state.items() if t.numel() == 1 or "running" in n)
    assert all(p.grad is not None for p in prepared.parameters())


def test_dropout_follows_the_mode():
    model = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 2))
    prepared = prepare_qat(model, torch.randn(8, 8))
    inputs = torch.randn(4, 8)
    assert not torch.equal(prepared.train()(inputs), prepared(inputs))
    assert torch.equal(prepared.eval()(inputs), prepared(inputs))


def test_modules_that_are_kept_stay_in_float():
    integers = convert(prepare_qat(net(), pictures()[0], keep=["head", "stem"]).eval())
    assert len([t for t in integers.state_dict().values() if t.dtype == torch.int8]) == 5


def test_other_widths_are_refused():
    with pytest.raises(BadInput, match="bit_width must be 8 or 4, got 6"):
        prepare_qat(net(), pictures()[0], bit_width=6)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Doubtful()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.inner(input)


class Doubtful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = self.layer(input)
        return y if y.sum() > 0 else -y


def test_data_dependent_control_flow_is_refused_before_training_with_the_module_and_the_line():
    loader = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))] * 2
    with pytest.raises(CannotAct) as caught:
        TrainingLoop(
            Branching(), loader, nn.functional.cross_entropy, instructions=[QuantizationAwareTraining()]
        )
    text = str(caught.value)
    assert "at inner (Doubtful, test_quantization_aware_training.py:" in text
    assert "depends on values of the data" in text
    assert "torch.where" in text
    assert "\n" not in text


def test_a_model_without_layers_is_refused():
    loader = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))]
    with pytest.raises(CannotAct, match="no linear layer or convolution"):
        TrainingLoop(
            nn.LayerNorm(4),
            loader,
            nn.functional.cross_entropy,
            instructions=[QuantizationAwareTraining()],
        )


def loop(*instructions, folder=None, epochs=4, **more) -> TrainingLoop:
    torch.manual_seed(0)
    return TrainingLoop(
        net(),
        batches(),
        nn.functional.cross_entropy,
        instructions=instructions,
        epochs=epochs,
        validation=batches(),
        checkpoints=folder,
        **more,
    )


def test_rounding_begins_and_freezes_when_it_should():
    seen = []
    one = loop(QuantizationAwareTraining(start_fraction=0.5, freeze_fraction=0.75))

    def look(batch):
        seen.append((hasattr(one.model, "quantised"), bool(getattr(one.model, "frozen", False))))

    one.on("step_end", look)
    module = one.fit()
    assert [begun for begun, _ in seen] == [False] * 6 + [True] * 6
    assert [frozen for _, frozen in seen] == [False] * 9 + [True] * 3
    assert one.reported["quantization_aware_training"]["quantised_layers"] == {"before": 0, "after": 7}
    assert convert(module)(pictures()[0]).shape == (48, 3)


def test_it_goes_with_averages_half_precision_and_early_stopping():
    one = loop(
        AmpOptimizer(),
        WeightAveraging(unless_worse=False, decay=0.9),
        EarlyStopping(patience=1),
        QuantizationAwareTraining(start_fraction=0.5, freeze_fraction=0.9),
        epochs=6,
    )
    module = one.fit().eval()
    assert hasattr(module, "quantised"), "early stopping waits for it"
    inputs = pictures()[0]
    integers = convert(module)
    assert torch.allclose(integers(inputs), module(inputs), atol=1e-3)


def test_a_resumed_training_ends_with_the_same_bits(tmp_path):
    def instructions():
        return QuantizationAwareTraining(start_fraction=0.3, freeze_fraction=0.8), WeightAveraging()

    whole = loop(*instructions()).fit()
    for steps in (5, 11):  # before the freeze, and after it
        folder = tmp_path / f"{steps}"
        folder.mkdir()
        interrupt(loop(*instructions(), folder=folder, checkpoint_every=1), steps, "step_end")
        resumed = loop(*instructions(), folder=folder).fit(resume=True)
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_what_it_excludes_has_reasons():
    quantise = QuantizationAwareTraining()
    assert "without blocks to recompute" in quantise.clash(GradientCheckpointing())
    assert "float8 is of layers" in quantise.clash(AmpOptimizer(dtype="float8"))
    assert "without modules to keep" in quantise.clash(AmpOptimizer(keep_fp32=("head",)))
    assert quantise.clash(AmpOptimizer()) is None


def test_a_freeze_before_the_start_is_refused():
    with pytest.raises(BadInput, match=r"freeze_fraction 0.3 must be after start_fraction 0.5"):
        loop(QuantizationAwareTraining(freeze_fraction=0.3))


def test_an_unknown_module_to_keep_is_refused():
    with pytest.raises(BadInput, match='no module is called "haed"; did you mean head'):
        loop(QuantizationAwareTraining(keep=("haed",)))


def test_what_never_began_cannot_be_converted(trained):
    with pytest.raises(CannotAct, match="ended before start_fraction"):
        QuantizationAwareTraining().optimise(trained)


def test_the_candidate_is_exported_as_what_it_is(trained, tmp_path):
    inputs = torch.from_numpy(trained.example(64)["input"])
    prepared = prepare_qat(copy.deepcopy(trained.module), inputs, bit_width=4)
    candidate = replace(trained, module=prepared.eval(), folder=tmp_path)
    quantised = QuantizationAwareTraining(bit_width=4).optimise(candidate)
    assert quantised.precision == "int4"
    exported = OnnxExport().optimise(quantised)
    assert exported.artifact.precision == "int4"
    whole = sum(t.numel() * 4 for t in trained.module.parameters())
    assert exported.artifact.bytes < whole / 6
