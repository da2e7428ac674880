"""Engines and forms that fail while a model is compiled are left out with a reason; the others go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fulldeck.candidate import Candidate, Tolerance
from fulldeck.compilation.arm import Arm, Judge
from fulldeck.compilation.compile import choose
from fulldeck.compilation.forms import onnx_forms
from fulldeck.data import Examples
from fulldeck.engines.source import Settings
from fulldeck.pipeline.splitting import with_default_split
from fulldeck.workload import encoded
from fulldeck.workloads.digits import Digits

from .models import images, reference, source_of


class Normalised(nn.Module):
    """With local response normalisation, which PyTorch has not in bf16 on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.LocalResponseNorm(2))
        self.head = nn.Linear(8, 5)

    def forward(self, input: Tensor) -> Tensor:
        """N x 5."""
        logits: Tensor = self.head(self.stem(input).mean(dim=(2, 3)))
        return logits


@pytest.mark.slow
def test_an_engine_that_fails_is_left_out_with_what_it_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = source_of(Normalised().eval(), images(), tmp_path)
    examples = Examples(source.example, np.zeros(20, np.int64))
    judge = Judge(source.example, examples, reference(source, 20), {}, Tolerance(agreement=0.9), 20)
    failing, good = Arm("torch", "bf16", source), Arm("onnxruntime", "fp32", source)
    chosen = choose([failing, good], judge, tmp_path, Settings(), 1, lambda text: None)
    assert chosen is good
    assert failing.reason is not None
    assert "not implemented for 'BFloat16'" in failing.reason
    assert "\n" not in failing.reason


class Trembling(nn.Module):
    """Its outputs have what rounding changes in them, many times over: no export gives the same."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, input: Tensor) -> Tensor:
        """N x 10."""
        logits: Tensor = self.linear(input.flatten(1))
        return logits + 0.1 * torch.sin(1e8 * logits)


@pytest.mark.slow
def test_an_export_that_differs_is_no_form_and_that_is_noted(tmp_path: Path) -> None:
    workload = Digits()
    data = encoded(workload, with_default_split(workload.load(), 0))
    torch.manual_seed(0)
    candidate = Candidate("digits", Trembling().eval(), data, tmp_path)
    forms, notes = onnx_forms(candidate, {}, ("fp32",), tmp_path, lambda text: None)
    assert forms == []
    (note,) = notes
    assert note.startswith("no fp32 ONNX file: the ONNX export differs from the module by")
