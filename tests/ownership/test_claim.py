"""A claim is as seldom false as its p-value says, whatever the model is; and a mark is seen through what exports do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.instructions.inference.post_training_quantization import quantize_onnx
from fulldeck.ownership.claim import chance, of_answers, of_weights, together
from fulldeck.ownership.key import Key
from fulldeck.ownership.onnx_weights import onnx_weights
from fulldeck.ownership.triggers import COUNT, Form, trigger_classes, trigger_inputs
from fulldeck.ownership.weight_mark import bits, projection

Array = npt.NDArray[Any]
KEYS = [Key(hashlib.sha256(str(number).encode()).digest()) for number in range(600)]


def one_class(inputs: Array) -> Array:
    return np.zeros(len(inputs), dtype=np.int64)


def by_brightness(inputs: Array) -> Array:
    brightness = inputs.reshape(len(inputs), -1).mean(axis=1)
    return np.argsort(np.argsort(brightness)) * 4 // len(inputs)


@pytest.mark.parametrize("ask", [one_class, by_brightness])
def test_models_without_the_mark_are_claimed_as_seldom_as_it_says(ask: Any) -> None:
    p_values = np.array([of_answers(key, Form((1, 6, 6), "float32", 4), ask).p_value for key in KEYS])
    assert (p_values <= 0.1).mean() < 0.14
    assert (p_values <= 0.01).mean() < 0.03
    assert p_values.min() > 1e-5


def test_weights_without_the_mark_are_claimed_as_seldom_as_it_says() -> None:
    draw = np.random.default_rng(0)
    weights = {
        "a": draw.normal(size=(64, 40)),
        "b": draw.normal(size=(32, 8, 3, 3)) + 1,
        "bias": draw.normal(size=64),
    }
    found = [of_weights(key, weights) for key in KEYS[:200]]
    p_values = np.array([one.p_value for one in found if one is not None])
    assert len(p_values) == 200
    assert (p_values <= 0.1).mean() < 0.16
    assert p_values.min() > 1e-5
    assert found[0] is not None
    assert found[0].tries == 3, "the matrix both ways round, and the convolution"


def test_small_weights_say_nothing() -> None:
    assert of_weights(KEYS[0], {"a": np.ones((4, 4))}) is None


def test_chances_are_binomial_and_added_up() -> None:
    assert chance(0, 10, 0.5) == 1
    assert chance(10, 10, 0.5) == pytest.approx(2**-10)
    key, form = KEYS[0], Form((3,), "float32", 2)
    right = of_answers(key, form, lambda inputs: trigger_classes(key, 2))
    assert right.p_value == pytest.approx(2.0**-COUNT)
    assert together(right, None) == right.p_value
    assert together(right, right) == 2 * right.p_value


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 8, 11), "float32"), ((12,), "float32"), ((9,), "int64"), ((5, 4), "float32")]
)
def test_triggers_have_the_form_of_the_input_and_differ(shape: tuple[int, ...], dtype: str) -> None:
    inputs = trigger_inputs(KEYS[0], Form(shape, dtype, 3))
    assert inputs.shape == (COUNT, *shape)
    assert inputs.dtype == dtype
    assert len(np.unique(inputs.reshape(COUNT, -1), axis=0)) == COUNT
    if dtype == "int64":
        assert inputs.min() >= 2
        assert inputs.max() < 258


def test_an_open_size_says_what_to_write() -> None:
    with pytest.raises(BadInput, match="say --shape"):
        Form((-1,), "float32", 3)


def marked(key: Key, shape: tuple[int, ...]) -> Array:
    """Weights with the mark, and nothing else in them."""
    size = int(np.prod(shape))
    noise = np.random.default_rng(0).normal(size=size)
    signs = projection(key, size).T @ bits(key)
    return (noise + 0.3 * signs).reshape(shape).astype(np.float32)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("form", ["float", "dequantised", "unsigned"])
def test_the_mark_is_read_out_of_an_onnx_file(tmp_path: Path, form: str, turned: bool) -> None:
    key = KEYS[0]
    weights = marked(key, (64, 48))
    weights = np.ascontiguousarray(weights.T) if turned else weights
    scale = np.float32(np.abs(weights).max() / 127)
    whole = np.rint(weights / scale)
    constants = {
        "float": {"w": weights},
        "dequantised": {"w": whole.astype(np.int8), "s": scale, "z": np.int8(0)},
        "unsigned": {"w": (whole + 128).astype(np.uint8)},
    }[form]
    node = (
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"])
        if form == "dequantised"
        else helper.make_node("Identity", ["w"], ["y"])
    )
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("y")], initializers)
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    found = of_weights(key, onnx_weights(tmp_path / "m.onnx"))
    assert found is not None
    assert found.p_value < 1e-10
    assert of_weights(KEYS[1], onnx_weights(tmp_path / "m.onnx")).p_value > 1e-3  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("bit_width", [8, 4])
@pytest.mark.parametrize("place", ["product", "table"])
def test_the_mark_is_read_out_of_blocks_of_weights(
    tmp_path: Path, bit_width: Literal[8, 4], place: str
) -> None:
    # 50 is no multiple of a block: the last one of a row is filled up.
    module = nn.Sequential(nn.Embedding(70, 50), nn.Linear(50, 64))
    weight = module[1 if place == "product" else 0].weight
    weight.data = torch.from_numpy(marked(KEYS[0], tuple(weight.shape)))
    whole = export_onnx(module.eval(), torch.randint(70, (3, 5)), tmp_path / "whole.onnx").path
    path = quantize_onnx(whole, tmp_path / "blocks.onnx", mode="weights", bit_width=bit_width)
    weights = onnx_weights(path)
    (read,) = [one for one in weights.values() if one.shape == weight.shape]
    whole_weight = weight.detach().numpy()
    step = np.abs(whole_weight).max() / 2 ** (bit_width - 1)
    assert np.abs(read - whole_weight).max() <= 1.001 * step
    found = of_weights(KEYS[0], weights)
    assert found is not None
    assert found.p_value < 1e-10
    assert of_weights(KEYS[1], weights).p_value > 1e-3  # type: ignore[union-attr]
