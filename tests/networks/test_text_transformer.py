import pytest
import torch

from fulldeck.networks import build, describe
from fulldeck.networks.text_transformer import TextTransformer

IDS = torch.tensor([[1, 5, 6, 7, 0, 0], [1, 8, 0, 0, 0, 0], [1, 5, 6, 7, 9, 4]])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return TextTransformer(10, 6, 3, width=16, layers=2, heads=4).eval()


def test_padding_does_not_count(net):
    longer = build(describe(net) | {"arguments": net.arguments | {"length": 9}}).eval()
    state = net.state_dict()
    state["positions"] = torch.cat([state["positions"], torch.randn(3, 16)])
    longer.load_state_dict(state)
    padded = torch.cat([IDS, torch.zeros(3, 3, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(longer(padded), net(IDS))


def test_order_counts(net):
    net.positions.data.normal_()
    assert not torch.allclose(
        net(torch.tensor([[1, 5, 6, 7, 0, 0]])), net(torch.tensor([[1, 7, 6, 5, 0, 0]]))
    )
