"""Every engine that is here gives what the module gives: all kinds of model, batches, lengths, many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from fulldeck.compilation.arm import Arm, build
from fulldeck.engines import ENGINES, Engine, available, engine_module, known, open_model, open_onnx, why_not
from fulldeck.engines.shapes import LARGEST_BATCH, Range, shapes_of
from fulldeck.engines.source import Settings, Source
from fulldeck.errors import BadInput, CannotAct
from fulldeck.networks import describe

from .models import MODELS, Bert, Separable, bert_inputs, images, made, reference, source_of

BATCHES = (1, 3, 17, LARGEST_BATCH)
FLOAT, LOW = 1e-5, 0.06
"""Largest difference from the module, relative to its largest output: in float32, and in bf16 or int8."""
QUICK = ("torch", "onnxruntime", "openvino", "tvm")
"""Engines that compile in a second or not at all."""
HERE = [name for name in ENGINES if why_not(name) is None]


def opened(source: Source, engine: str, precision: str, folder: Path) -> Engine:
    path = engine_module(engine).convert(source, precision, folder, Settings())
    return open_model(path, kind=ENGINES[engine].kind, precision=precision, engine=engine, threads=2)


def assert_same(engine: Engine, source: Source, rows: int, allowed: float) -> None:
    expected = reference(source, rows)
    (got,) = engine.run(source.inputs(rows)).values()
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= allowed * max(1.0, np.abs(expected).max()), (engine.name, rows)


@pytest.fixture(scope="module", params=MODELS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=[name for name in QUICK if name in HERE])
def loaded(request: pytest.FixtureRequest, table: Source, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The table's model in each of the quick engines."""
    return opened(table, request.param, "fp32", tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return made("mlp", tmp_path_factory.mktemp("table"))


@pytest.mark.parametrize("engine", [name for name in QUICK if name in HERE and name != "tvm"])
def test_float32_is_the_same_in_every_engine_at_every_batch(
    source: Source, engine: str, tmp_path: Path
) -> None:
    if engine == "torch" and describe(source.module()) is None:
        with pytest.raises(
            CannotAct, match="is no network of fulldeck, and a file of weights cannot rebuild it"
        ):
            opened(source, engine, "fp32", tmp_path)
        return
    loaded = opened(source, engine, "fp32", tmp_path)
    for rows in BATCHES:
        assert_same(loaded, source, rows, FLOAT)


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not here")
def test_a_lower_precision_is_near_and_really_another(source: Source, tmp_path: Path) -> None:
    try:
        loaded = opened(source, "openvino", "bf16", tmp_path)
    except CannotAct as error:
        if "does not compute in bf16" not in str(error):
            raise
        pytest.skip("this processor has no bf16")
    for rows in BATCHES:
        assert_same(loaded, source, rows, LOW)
    (low,) = loaded.run(source.inputs(17)).values()
    assert np.abs(low - reference(source, 17)).max() > 1e-6


def test_a_table_is_the_same_at_every_batch(loaded: Engine, table: Source) -> None:
    for rows in BATCHES:
        assert_same(loaded, table, rows, FLOAT)


def test_threads_do_not_disturb_each_other(loaded: Engine) -> None:
    sizes = [1, 3, 17, 5] * 10
    inputs = [
        {"input": np.random.default_rng(i).normal(size=(n, 7)).astype(np.float32)}
        for i, n in enumerate(sizes)
    ]
    alone = [next(iter(loaded.run(one).values())) for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: next(iter(loaded.run(one).values())), inputs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input": np.zeros((2, 7))}, 'input "input" is float64, and the model takes float32'),
        ({"input": np.zeros((2, 8), np.float32)}, 'input "input" is 2 x 8, and the model takes'),
        ({"input": np.zeros(7, np.float32)}, 'input "input" is 7, and the model takes'),
        ({"row": np.zeros((2, 7), np.float32)}, 'the model has no input "row"'),
        ({}, 'input "input" is missing'),
    ],
)
def test_wrong_inputs_are_named_and_the_engine_goes_on(
    loaded: Engine, table: Source, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput) as caught:
        loaded.run(inputs)
    assert str(caught.value).startswith(message)
    assert_same(loaded, table, 3, FLOAT)


@pytest.mark.parametrize("engine", [name for name in QUICK if name in HERE])
def test_a_file_that_was_cut_off_is_refused_in_one_line(table: Source, engine: str, tmp_path: Path) -> None:
    whole = engine_module(engine).convert(table, "fp32", tmp_path, Settings())
    cut = tmp_path / f"cut{whole.suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(BadInput) as caught:
        open_model(cut, kind=ENGINES[engine].kind, precision="fp32", engine=engine)
    assert "\n" not in str(caught.value)
    assert cut.name in str(caught.value)


def test_an_operator_that_no_engine_knows_is_named(tmp_path: Path) -> None:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["input"], ["output"], domain="example")],
        "g",
        [tensor("input", onnx.TensorProto.FLOAT, ["batch", 2])],
        [tensor("output", onnx.TensorProto.FLOAT, ["batch", 2])],
    )
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("example", 1)]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=10), path)
    for engine in set(HERE) & {"onnxruntime", "openvino"}:
        with pytest.raises(BadInput, match=r"cannot load odd\.onnx.*Frobnicate"):
            open_model(path, kind="onnx", precision="fp32", engine=engine)
    if "tvm" in HERE:
        example = {"input": np.zeros((2, 2), np.float32)}
        with pytest.raises(CannotAct, match=r"TVM cannot compile the model: .*Frobnicate"):
            engine_module("tvm").convert(
                Source(example, shapes_of(example), onnx={"fp32": path}), "fp32", tmp_path, Settings()
            )


def test_fixed_sizes_are_fixed_in_the_file(tmp_path: Path) -> None:
    source = made("mlp", tmp_path, ["4"])
    for engine in set(HERE) & {"onnxruntime", "openvino", "tvm"}:
        loaded = opened(source, engine, "fp32", tmp_path)
        assert_same(loaded, source, 4, FLOAT)
        with pytest.raises(BadInput, match="is 3 x 7, and the model takes 4 x 7"):
            loaded.run(source.inputs(3))


def test_weights_that_are_too_large_for_one_file_lie_beside_that_of_fixed_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made("resnet", tmp_path, ["4"])
    monkeypatch.setattr("fulldeck.onnx_file.LIMIT", 100)  # 2 GiB would take minutes
    for engine in set(HERE) & {"onnxruntime", "openvino"}:
        folder = tmp_path / engine
        folder.mkdir()
        assert_same(opened(source, engine, "fp32", folder), source, 4, FLOAT)
        assert {file.name for file in folder.iterdir()} == {
            f"model.4x3x16x16.onnx{end}" for end in ("", ".data")
        }


def test_the_file_passes_the_checker_and_is_run_by_what_did_not_make_it(source: Source) -> None:
    path = source.onnx["fp32"]
    onnx.checker.check_model(str(path), full_check=True)
    if len(source.example) > 1:
        return  # ONNX's own evaluator cannot run GatherElements of BERT; OpenVINO does, above
    (got,) = ReferenceEvaluator(str(path)).run(None, source.inputs(3))
    expected = reference(source, 3)
    assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_each_engine_that_is_not_here_says_why_and_what_to_type() -> None:
    for name, reason in available().items():
        assert reason is None or (": " in reason and "\n" not in reason), name
    assert [name for name, card in ENGINES.items() if not card.optional] == ["torch", "onnxruntime"]
    with pytest.raises(BadInput, match='unknown engine "openvin"; did you mean openvino'):
        known("openvin")


def test_an_engine_that_is_not_installed_is_refused_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fulldeck.engines.find_spec", lambda name: None)
    with pytest.raises(BadInput) as caught:
        open_model(tmp_path / "model.onnx", kind="onnx", precision="fp32", engine="openvino")
    assert str(caught.value) == (
        'engine openvino is not available: openvino is not installed: pip install "fulldeck[openvino]"'
    )
    assert available()["tvm"] == 'tvm is not installed: pip install "fulldeck[tvm]"'


def test_a_kind_that_an_engine_does_not_run_is_refused(table: Source) -> None:
    with pytest.raises(BadInput, match=r"model\.onnx is of kind onnx, and engine tvm runs tvm"):
        open_model(table.onnx["fp32"], kind="onnx", precision="fp32", engine="tvm")


def test_a_file_of_one_length_is_no_answer_to_a_range_of_lengths(table: Source, tmp_path: Path) -> None:
    (name,) = table.shapes
    batch, width = table.shapes[name]
    asked = replace(table, shapes={name: (batch, Range(1, width.best, width.best))})
    arm = Arm("onnxruntime", "fp32", asked)
    build(arm, tmp_path, Settings(), 1)
    assert arm.loaded is None
    assert arm.reason == (
        f"it takes {width.best} along an axis of {name}, and 1 to {width.best} is asked for"
    )


class Branch(nn.Module):
    """Branches on a value, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, input: Tensor) -> Tensor:
        """N x 2."""
        result: Tensor = self.linear(input)
        return result if result.sum() > 0 else -result


def test_a_branch_on_values_cannot_be_compiled_and_that_is_said(tmp_path: Path) -> None:
    example = {"input": np.ones((4, 4), np.float32)}
    source = Source(example, shapes_of(example), {"fp32": Branch().eval()})
    with pytest.raises(CannotAct, match="the model cannot be exported as one graph: ") as caught:
        engine_module("torch_compiled").convert(source, "fp32", tmp_path, Settings())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# The rest compiles native code with PyTorch, or large models: minutes.


@pytest.mark.slow
@pytest.mark.skipif("tvm" not in HERE, reason="TVM is not here")
def test_tvm_is_the_same(source: Source, tmp_path: Path) -> None:
    loaded = opened(source, "tvm", "fp32", tmp_path)
    for rows in BATCHES:
        assert_same(loaded, source, rows, FLOAT)


@pytest.mark.skipif("tvm" not in HERE, reason="TVM is not here")
def test_tvm_says_what_its_tuning_needs(table: Source, tmp_path: Path) -> None:
    fixed = replace(table, shapes=shapes_of(table.example, ["8"]))
    with pytest.raises(CannotAct, match="pip install xgboost cloudpickle"):
        engine_module("tvm").convert(fixed, "fp32", tmp_path, Settings(tuning_trials=8))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_compiled_torch_is_the_same(source: Source, precision: str, tmp_path: Path) -> None:
    loaded = opened(source, "torch_compiled", precision, tmp_path)
    for rows in BATCHES:
        assert_same(loaded, source, rows, FLOAT if precision == "fp32" else LOW)
    inputs = source.inputs(5)
    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(lambda _: next(iter(loaded.run(inputs).values())), range(12)):
            assert np.abs(outputs - reference(source, 5)).max() <= LOW * max(1.0, np.abs(outputs).max())


@pytest.mark.slow
def test_several_lengths(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, example = MODELS["bert"]()
    source = source_of(module.eval(), example, tmp_path)
    words = ["input_ids=1:1:64x2:12:32", "attention_mask=1:1:64x2:12:32"]
    ranges = replace(source, shapes=shapes_of(example, words))
    loaded = opened(ranges, "torch_compiled", "fp32", tmp_path)
    for length in (2, 7, 12, 32):
        inputs = bert_inputs(60, length, 3)
        with torch.inference_mode():
            expected = module(**{key: torch.from_numpy(value) for key, value in inputs.items()}).numpy()
        assert np.abs(loaded.run(inputs)["output"] - expected).max() < FLOAT * max(
            1.0, np.abs(expected).max()
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "mobilenet", "bert-base"])
def test_large_models_with_random_weights(name: str, tmp_path: Path) -> None:
    """Numerical parity only: the weights are random, so there is no metric."""
    torch.manual_seed(0)
    if name == "resnet50":
        from transformers import ResNetConfig, ResNetForImageClassification

        module: nn.Module = Logits(ResNetForImageClassification(ResNetConfig(num_labels=10)))
        example = images(side=224, rows=4)
    elif name == "mobilenet":
        module, example = Separable(width=64, outputs=10), images(side=224, rows=4)
    else:
        module, example = Bert(), bert_inputs(30_000, 128, 4)
    source = source_of(module.eval(), example, tmp_path)
    for engine in set(HERE) & {"onnxruntime", "openvino", "torch_compiled"}:
        loaded = opened(source, engine, "fp32", tmp_path)
        for rows in (1, 3, 17):
            assert_same(loaded, source, rows, 1e-4)


class Logits(nn.Module):
    """A Hugging Face image classifier, with one tensor as its output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input: Tensor) -> Tensor:
        """N x classes."""
        logits: Tensor = self.model(input).logits
        return logits


def test_an_onnx_file_opens_without_further_words(table: Source) -> None:
    assert_same(open_onnx(table.onnx["fp32"], threads=1), table, 3, FLOAT)
