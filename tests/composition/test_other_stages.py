"""Every training instruction beside those of the other stages: what was trained is converted, packed and served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fulldeck.catalogue import built_in
from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction, Situation
from fulldeck.package import Package
from fulldeck.pipeline.run import run
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import make_recipe
from tests.composition.tiny_training import ENTRIES, data, made, network, variants

OTHERS = {entry.name: entry for entry in built_in() if entry.name not in ENTRIES}
CHAINS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "quantised and served": {
        "leakage_safe_splitting": {"validation": 0.2, "test": 0.2},
        "onnx_export": {},
        # Of so small a model eight bits may cost more than they may of another.
        "post_training_quantization": {"mode": "dynamic", "tolerate": True},
        "model_serving_framework": {"engine": "onnxruntime"},
        "request_batching": {},
        "overload_protection": {},
        "replica_autoscaling": {},
        "model_packaging": {},
    },
    "fused": {"kernel_fusion": {"tolerate": True}, "onnx_export": {}, "model_packaging": {}},
    "in fewer bits": {
        "reduced_precision_inference": {"dtype": "float16", "tolerate": True},
        "onnx_export": {},
        "model_packaging": {},
    },
}
SITUATION = Situation("tensor", "classification", "cpu")
SKIPPED = {"kernel_fusion", "reduced_precision_inference", "post_training_quantization"}
"""Those that may find that they would gain nothing here."""


def workload() -> dict[str, Any]:
    """The tiny training as a workload of one's own."""
    rows = data().train
    return {
        "model": network,
        "data": (torch.from_numpy(rows.inputs), torch.from_numpy(rows.targets)),
        "loss": torch.nn.functional.cross_entropy,
    }


def test_all_others_are_in_a_chain() -> None:
    assert {name for chain in CHAINS.values() for name in chain} == set(OTHERS)


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", ENTRIES)
def test_beside(name: str, chain: str, tmp_path: Path) -> None:
    torch.compiler.reset()
    instruction, settings = made(name), variants(name)[0]
    beside = {
        other: given
        for other, given in CHAINS[chain].items()
        if not _clash(instruction, other, {key: value for key, value in given.items() if key != "tolerate"})
    }
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        json.dumps(
            {
                "workload": {"kind": "python", "factory": "tests.composition.test_other_stages:workload"},
                "train": {"epochs": 3, "batch_size": 16, "threads": 1, "device": "cpu"},
                "instructions": [*({other: given} for other, given in beside.items()), {name: settings}],
            }
        )
    )
    result = run(recipe, out=tmp_path / "runs")
    assert result["status"] == "finished"
    skipped = {one["name"] for one in result["instructions"] if one["status"] == "skipped"}
    assert skipped <= SKIPPED
    engine = Package.open(Path(result["run"]) / "package").engine()
    outputs = next(iter(engine.run({"input": data().train.inputs[:4]}).values()))
    assert outputs.shape == (4, 3)
    assert result["rehearsal"]["agreement"] > 0.9


def _clash(instruction: Instruction, other: str, given: Mapping[str, Any]) -> bool:
    """Whether a plan refuses the two, whatever else it says."""
    try:
        make_plan(make_recipe("digits", [instruction, OTHERS[other].load()(**given)]), SITUATION)
    except BadInput as error:
        return "exclude each other" in str(error)
    return False
