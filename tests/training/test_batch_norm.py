"""Batch-norm's statistics for weights other than those that they were gathered under."""

import torch
from torch import nn

from fulldeck.training.batch_norm import kept_statistics, recalculate_statistics, running_statistics

INPUTS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return nn.functional.dropout(self.norm(inputs), 0.5, self.training)


def test_statistics_are_those_of_the_inputs_and_nothing_else_changes():
    model = Model().eval()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    recalculate_statistics(model, INPUTS.split(16))
    assert torch.equal(torch.rand(3), expected)
    assert torch.allclose(model.norm.running_mean, INPUTS.mean(0), atol=1e-5)
    assert model.calls == 0
    assert not model.training
    assert not model.norm.training


def test_kept_statistics_come_back():
    model = Model()
    before = {name: value.clone() for name, value in running_statistics(model).items()}
    assert set(before) == {"norm.running_mean", "norm.running_var"}
    with kept_statistics(model):
        recalculate_statistics(model, INPUTS.split(16))
        assert model.norm.running_mean.abs().min() > 1
    assert all(torch.equal(before[name], value) for name, value in running_statistics(model).items())
