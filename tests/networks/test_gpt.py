import pytest
import torch

from fulldeck.networks.gpt import Gpt

IDS = torch.tensor([[1, 5, 6, 7, 2, 3], [1, 8, 4, 4, 0, 9], [1, 5, 6, 7, 9, 4]])


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def net(request):
    torch.manual_seed(0)
    return Gpt(10, 6, width=16, layers=2, heads=2, tied=request.param).eval()


def test_what_comes_later_changes_nothing(net):
    later = IDS.clone()
    later[:, 4:] = 0
    torch.testing.assert_close(net(later)[:, :4], net(IDS)[:, :4])
    assert not torch.allclose(net(later)[:, 4:], net(IDS)[:, 4:])


def test_order_counts(net):
    swapped = IDS[:, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(net(swapped)[:, 5], net(IDS)[:, 5], atol=1e-6)


def test_a_shorter_text_is_taken_too(net):
    torch.testing.assert_close(net(IDS[:, :3]), net(IDS)[:, :3])


def test_first_predictions_are_even(net):
    shares = net(IDS).softmax(dim=-1)
    assert shares.max() < 0.2


def test_tied_weights_are_kept_once():
    assert "head.weight" not in Gpt(10, 6, width=16, layers=1, heads=2).state_dict()
