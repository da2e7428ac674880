"""The file that holds the newest state: whole, believed only by its hash, of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from fulldeck.checkpoints.checkpoint import decode, encode, load_checkpoint, save_checkpoint
from fulldeck.errors import BadInput
from fulldeck.training.loop import TrainingLoop

INPUTS, TARGETS = torch.ones(8, 4), torch.zeros(8, dtype=torch.long)


def loop(model: nn.Module, folder: Path, optimizer: Any = torch.optim.SGD, **settings: Any) -> TrainingLoop:
    return TrainingLoop(
        model,
        [(INPUTS, TARGETS)],
        nn.functional.cross_entropy,
        optimizer=optimizer,
        device="cpu",
        checkpoints=folder,
        **settings,
    )


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {"a": [1, 2.5, None, "b", True], 3: (torch.arange(3), {"x": np.arange(2)}), "image": image}
    save_checkpoint(tmp_path / "kept", state)
    back = load_checkpoint(tmp_path / "kept")
    assert back["a"] == state["a"]
    assert back[3][0].tolist() == [0, 1, 2]
    assert back[3][1]["x"].dtype == np.int64
    assert torch.equal(back["image"], image)
    assert back["image"].stride() == image.stride()


def test_tensors_have_the_names_of_their_places() -> None:
    model = nn.Linear(2, 1)
    tree, tensors = encode({"model": model.state_dict(), 1: [torch.ones(1)], "1": [torch.zeros(1)]})
    assert list(tensors)[:3] == ["model/weight", "model/bias", "1/0"]
    assert len(tensors) == 4  # two keys that read alike
    assert decode(tree, tensors)["1"][0].item() == 0


def test_any_reader_of_safetensors_finds_the_weights(tmp_path: Path) -> None:
    loop(nn.Linear(4, 2), tmp_path).fit()
    content = (tmp_path / "last.safetensors").read_bytes()
    (tmp_path / "plain").write_bytes(content[32:])
    with safe_open(tmp_path / "plain", "pt") as file:
        assert file.get_tensor("model/weight").shape == (2, 4)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(TypeError, match="must hold tensors, numbers, texts and containers of these, not set"):
        encode({"a": {1}})


@pytest.mark.parametrize("size", [0, 10, 40, 500])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    loop(nn.Linear(4, 2), tmp_path).fit()
    file = tmp_path / "last.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(BadInput, match="does not match its hash"):
        loop(nn.Linear(4, 2), tmp_path, epochs=2).fit(resume=True)


def test_a_model_of_other_sizes_is_named_by_its_first_three_differences(tmp_path: Path) -> None:
    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))

    loop(network(8), tmp_path).fit()
    with pytest.raises(BadInput) as refused:
        loop(network(6), tmp_path, epochs=2).fit(resume=True)
    assert str(refused.value) == (
        "the checkpoint is of another model; 0.weight is 8 x 4 there and 6 x 4 here, 0.bias is 8 there and 6 here, "
        "1.weight is 2 x 8 there and 2 x 6 here"
    )


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    def two_groups(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first]}, {"params": rest}], lr=0.1)

    loop(nn.Linear(4, 2), tmp_path).fit()
    with pytest.raises(
        BadInput, match=r"with another optimizer; its groups have \[\[2\]\] .* \[\[1, 1\]\] here"
    ):
        loop(nn.Linear(4, 2), tmp_path, two_groups, epochs=2).fit(resume=True)
