"""Trained weights outside fulldeck: what is written loads into the same network."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import fulldeck as fd
from fulldeck.checkpoints.checkpoint import load_checkpoint


class Tied(nn.Module):
    """An output layer that shares its weight with the embedding, and a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight

    def get_extra_state(self) -> Any:
        return {"words": 5}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_shared_and_other_states_are_no_hindrance(tmp_path: Path) -> None:
    model = Tied()
    artifact = fd.save_weights(model, tmp_path / "tied.safetensors")
    assert (artifact.kind, artifact.precision) == ("safetensors", "fp32")
    again = Tied()
    again.load_state_dict(load_file(artifact.path), strict=False)
    assert torch.equal(again.output.weight, model.output.weight)
    assert again.output.weight is again.embedding.weight


def test_precision_is_that_of_most_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(30, 30).bfloat16(), nn.LayerNorm(30))
    assert fd.save_weights(model, tmp_path / "w.safetensors").precision == "bf16"


def test_a_run_leaves_the_weights_that_it_deploys(tmp_path: Path) -> None:
    result = fd.run(
        "breast_cancer",
        [
            fd.WeightAveraging(decay=0.9, decay_warmup=False, unless_worse=False),
            fd.LrScheduler(kind="constant"),
        ],
        out=tmp_path,
        epochs=1,
        threads=1,
        device="cpu",
    )
    folder = Path(result["run"])
    (listed,) = result["artifacts"]
    file = folder / "artifacts" / "model.safetensors"
    assert listed == {
        "path": "artifacts/model.safetensors",
        "kind": "safetensors",
        "bytes": file.stat().st_size,
        "precision": "fp32",
    }
    weights = load_file(file)
    state = load_checkpoint(folder / "checkpoints" / "last.safetensors")
    averages = state["instructions"]["weight_averaging"]["averages"]
    assert weights.keys() == state["model"].keys()
    for name, average in averages.items():
        assert torch.equal(weights[name], average), "the average, not the last step"
