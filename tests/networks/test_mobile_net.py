from fulldeck.networks.mobile_net import MobileNet
from fulldeck.networks.residual_net import ResidualNet


def test_is_about_a_fifth_of_a_residual_net():
    sizes = [sum(p.numel() for p in kind(1, 10).parameters()) for kind in (MobileNet, ResidualNet)]
    assert sizes[0] < 0.21 * sizes[1]
