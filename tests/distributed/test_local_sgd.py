"""Local SGD of two processes, and of two machines of two, is what a few lines of torch make of the same batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction, Situation
from fulldeck.instructions.inference.quantization_aware_training import QuantizationAwareTraining
from fulldeck.instructions.training.amp_optimizer import AmpOptimizer
from fulldeck.instructions.training.distributed_data_parallel import DistributedDataParallel
from fulldeck.instructions.training.gradient_stabilization import GradientStabilization
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import make_recipe


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("local")
    command = [sys.executable, "-m", "tests.distributed.local_sgd_process", str(folder)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=200)
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


def close(weights: dict[str, Any], others: dict[str, Any]) -> None:
    for name, values in others.items():
        np.testing.assert_allclose(weights[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


def test_processes_that_step_apart_learn_what_local_sgd_by_hand_does(found: dict[str, Any]) -> None:
    first, second = found["processes"]
    close(first["weights"], found["by_hand"])
    for what in ("weights", "history"):
        assert first[what] == second[what]
    assert "weights are averaged every 3 steps, gradients of each process are its own" in first["notes"][0]


def test_machines_that_step_apart_are_each_one_of_it(found: dict[str, Any]) -> None:
    close(found["machines"][0], found["by_hand"])
    assert all(one == found["machines"][0] for one in found["machines"])


def test_a_training_goes_on_bit_for_bit(found: dict[str, Any]) -> None:
    for rank in found["processes"]:
        assert rank["resumed"] == rank["whole"] == found["processes"][0]["whole"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (WeightAveraging(), "average weights of its own"),
        (GradientStabilization(), r"write gradient_stabilization: \{skip_spikes: false\}"),
        (AmpOptimizer(dtype="float16"), "scale losses in its own way"),
        (QuantizationAwareTraining(), "ranges of its own"),
    ],
)
def test_what_would_be_each_process_s_own_is_refused(other: Instruction, words: str) -> None:
    recipe = make_recipe("digits", [DistributedDataParallel(average_every=4), other])
    with pytest.raises(BadInput, match=words):
        make_plan(recipe, Situation("image", "classification", "cuda"))


def test_compression_without_an_exchange_is_refused() -> None:
    with pytest.raises(BadInput, match=r"compression is of gradients.*write apart: machine"):
        make_recipe("digits", [DistributedDataParallel(average_every=4, compression="bfloat16")])
