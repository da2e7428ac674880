"""What the planner's order rules guard against truly happens when they are broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fulldeck.candidate import Artifact, Candidate
from fulldeck.data import Data, Examples
from fulldeck.encoders.table import TableEncoder
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.errors import CannotAct
from fulldeck.instructions.deployment.model_packaging import ModelPackaging
from fulldeck.instructions.deployment.model_serving_framework import ModelServingFramework
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.instructions.inference.post_training_quantization import PostTrainingQuantization
from fulldeck.package import Package
from fulldeck.service import Service


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    examples = Examples(rows, (rows[:, 0] > 0).astype(np.int64))
    data = Data(
        "rows", "tensor", "classification", examples, examples, examples, ("no", "yes"), TensorEncoder((4,))
    )
    return Candidate("rows", nn.Linear(4, 2).eval(), data, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def exported(candidate: Candidate) -> Candidate:
    export = export_onnx(
        candidate.module, torch.from_numpy(candidate.example(4)["input"]), candidate.folder / "m.onnx"
    )
    return candidate.with_artifact(Artifact(export.path, "onnx", "fp32", "onnxruntime"))


def test_a_module_that_is_changed_after_its_export_is_not_what_is_served(exported: Candidate) -> None:
    changed = replace(exported, module=nn.Linear(4, 2))
    inputs = exported.example(8)
    assert np.array_equal(changed.run(inputs), exported.run(inputs))


def test_quantising_before_the_export_has_nothing_to_work_on(candidate: Candidate) -> None:
    with pytest.raises(CannotAct, match="onnx_export"):
        PostTrainingQuantization().optimise(candidate)


def test_serving_settings_after_packaging_are_not_in_the_package(exported: Candidate, tmp_path: Path) -> None:
    settings, packaging = ModelServingFramework(queue=7), ModelPackaging()
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
    right = packaging.configure(settings.configure(Service(exported, "rows", tmp_path / "right")))
    wrong = settings.configure(packaging.configure(Service(exported, "rows", tmp_path / "wrong")))
    assert right.package is not None
    assert wrong.package is not None
    assert Package.open(right.package).service.serving.queue == 7
    assert Package.open(wrong.package).service.serving.queue != 7


def test_what_is_fitted_before_the_split_has_seen_the_test_rows() -> None:
    values = np.concatenate([np.zeros(80), np.full(20, 100.0)])
    examples = Examples({"x": values}, np.arange(100) % 2)
    train = examples.take(np.arange(80))
    before, after = (TableEncoder.fit(part.inputs) for part in (examples, train))
    assert before.to_json() != after.to_json()
