"""Each layer's weights are rounded alone, and are what they were afterwards."""

from __future__ import annotations

import torch
from torch import nn

from fulldeck.diagnosis.precision import TOLERATED, precision_of_layers, rounded_to_int8


def test_a_layer_with_an_outlier_is_the_sensitive_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    with torch.no_grad():
        model[2].weight[:, 0] = 300.0
    inputs = torch.randn(64, 32)
    inputs[:, 0] = 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, last = precision_of_layers(model, lambda: model(inputs))
    assert (first.name, last.name) == ("0", "2"), "the largest first"
    assert 0 < first.error["bfloat16"] < first.error["int8"]
    assert last.kind == "Linear"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert first.tolerates(10.0) == "int8"
    assert first.tolerates(0.0) == "float32"


def test_int8_has_one_scale_a_channel() -> None:
    weight = torch.tensor([[1.0, 0.5], [1000.0, 3.0]])
    rounded = rounded_to_int8(weight)
    assert torch.allclose(rounded[0], weight[0], atol=1 / 127)
    assert rounded[1, 1] == 0.0, "a third of a step of 1000/127"
    assert 0 < TOLERATED < 1
