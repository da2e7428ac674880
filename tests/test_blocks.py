"""The blocks that a model is a stack of."""

import warnings

import pytest
from torch import nn

from fulldeck.blocks import most_alike, repeated_blocks
from fulldeck.instructions.training.parameter_efficient_finetuning import add_adapters
from fulldeck.networks.gpt import Gpt
from fulldeck.networks.residual_net import ResidualNet


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def stages() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(block(), block()), nn.Sequential(block(), block()), nn.Linear(4, 1)
    )


def test_they_are_found_in_lists_and_in_stages_of_lists() -> None:
    assert list(repeated_blocks(stages())) == ["1.0", "1.1", "2.0", "2.1"]
    gpt = Gpt(50, 16, width=16, layers=4, heads=2)
    assert list(repeated_blocks(gpt)) == [f"blocks.{number}" for number in range(4)]
    layer = nn.TransformerEncoderLayer(8, 2)
    with warnings.catch_warnings(action="ignore"):
        assert list(repeated_blocks(nn.TransformerEncoder(layer, 2))) == ["layers.0", "layers.1"]


def test_side_by_side_where_there_is_no_list() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2, self.head = block(), block(), nn.Linear(4, 1)

    assert list(repeated_blocks(Net())) == ["down1", "down2"]


def test_layers_alone_are_no_blocks() -> None:
    assert repeated_blocks(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 1))) == {}


def test_a_layer_with_adapters_is_still_a_layer() -> None:
    pytest.importorskip("peft")
    model = stages()
    add_adapters(model, rank=2)
    assert list(repeated_blocks(model)) == ["1.0", "1.1", "2.0", "2.1"]


def test_how_many_are_alike_goes_by_their_shapes() -> None:
    assert most_alike(repeated_blocks(stages())) == 4
    assert most_alike(repeated_blocks(ResidualNet(1, 3, widths=(4, 8), blocks=3))) == 3
    assert most_alike({}) == 0
