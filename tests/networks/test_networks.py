import json

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.group_norm import with_group_norm
from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.networks import NETWORKS, build, describe
from fulldeck.networks.gpt import Gpt
from fulldeck.networks.mlp import Mlp
from fulldeck.networks.mobile_net import MobileNet
from fulldeck.networks.residual_net import ResidualNet
from fulldeck.networks.text_transformer import TextTransformer

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 5, 6, 7, 0, 0], [1, 8, 0, 0, 0, 0], [1, 5, 6, 7, 9, 4]])
STATISTICS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.1)}
SMALL = {
    "gpt": (lambda: Gpt(10, 6, width=16, layers=2, heads=2), IDS),
    "gpt, untied": (lambda: Gpt(10, 6, width=16, layers=2, heads=2, tied=False), IDS),
    "mlp": (lambda: Mlp(4, 1, widths=(8, 8), target_mean=10.0, target_std=5.0), torch.ones(3, 4)),
    "mobile_net": (lambda: MobileNet(3, 5, widths=(8, 16), stem_stride=2, **STATISTICS), IMAGES),
    "residual_net": (lambda: ResidualNet(3, 5, widths=(8, 16), stem_stride=2, **STATISTICS), IMAGES),
    "text_transformer": (lambda: TextTransformer(10, 6, 3, width=16, layers=2, heads=4), IDS),
}


@pytest.fixture(params=SMALL)
def net_and_inputs(request):
    make, inputs = SMALL[request.param]
    torch.manual_seed(0)
    return make().eval(), inputs


def test_networks_are_found_by_file():
    assert NETWORKS == ("gpt", "mlp", "mobile_net", "residual_net", "text_transformer")


def test_another_module_has_no_description():
    assert describe(nn.Linear(2, 2)) is None


def test_only_built_in_names_are_built():
    for name in ("os", "../mlp", None, ["mlp"]):
        with pytest.raises(BadInput, match="there is gpt, mlp, mobile_net, residual_net, text_transformer"):
            build({"network": name, "arguments": {}})


def test_is_rebuilt_from_json_and_its_state(net_and_inputs):
    net, inputs = net_and_inputs
    copy = build(json.loads(json.dumps(describe(net)))).eval()
    copy.load_state_dict(net.state_dict())
    assert torch.equal(copy(inputs), net(inputs))


def test_is_rebuilt_with_group_norms_where_they_were_put_in(net_and_inputs):
    net, inputs = net_and_inputs
    replaced = with_group_norm(net)
    described = describe(net)
    assert ("norm" in described) == bool(replaced)
    copy = build(json.loads(json.dumps(described))).eval()
    copy.load_state_dict(net.state_dict())
    assert torch.equal(copy(inputs), net(inputs))


def test_a_changed_network_has_no_description():
    net = ResidualNet(3, 5, widths=(8, 16))
    net.head = nn.Linear(16, 9)
    assert describe(net) is None


def test_describing_draws_no_random_numbers(net_and_inputs):
    net, _ = net_and_inputs
    before = torch.get_rng_state()
    describe(net)
    assert torch.equal(torch.get_rng_state(), before)


def test_exports_to_onnx_with_a_free_batch(net_and_inputs, tmp_path):
    net, inputs = net_and_inputs
    path = export_onnx(net, inputs[:2], tmp_path / "net.onnx").path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    np.testing.assert_allclose(outputs, net(inputs).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", [MobileNet, ResidualNet])
def test_gives_one_row_of_outputs_an_image_of_any_size(kind):
    net = kind(3, 5, widths=(8, 16), stem_stride=2, **STATISTICS).eval()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert net(torch.rand(1, 3, 21, 33)).shape == (1, 5)


@pytest.mark.parametrize("name", ["gpt", "text_transformer"])
def test_runs_under_bf16_autocast(name):
    net = SMALL[name][0]()
    with torch.autocast("cpu", torch.bfloat16):
        loss = net.train()(IDS).float().sum()
    loss.backward()
    assert torch.isfinite(net.tokens.weight.grad).all()
