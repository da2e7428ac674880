import pytest
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.networks import NETWORKS, build, describe


def test_networks_are_found_by_file():
    assert NETWORKS == ("gpt", "mlp", "mobile_net", "residual_net", "text_transformer")


def test_another_module_has_no_description():
    assert describe(nn.Linear(2, 2)) is None


def test_only_built_in_names_are_built():
    for name in ("os", "../mlp", None, ["mlp"]):
        with pytest.raises(BadInput, match="there is gpt, mlp, mobile_net, residual_net, text_transformer"):
            build({"network": name, "arguments": {}})
