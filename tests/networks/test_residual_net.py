import torch

from fulldeck.networks.residual_net import ResidualNet


def test_standardises_its_input_with_the_given_statistics():
    torch.manual_seed(0)
    plain = ResidualNet(1, 2, widths=(4,)).eval()
    standardising = ResidualNet(1, 2, widths=(4,), mean=(0.5,), std=(0.25,)).eval()
    state = {key: value for key, value in plain.state_dict().items() if key not in ("mean", "std")}
    standardising.load_state_dict(state, strict=False)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(standardising(images), plain((images - 0.5) / 0.25))
