import json

import numpy as np
import onnxruntime
import pytest
import torch

from fulldeck.instructions.inference.onnx_export import export_onnx
from fulldeck.networks import build, describe
from fulldeck.networks.mobile_net import MobileNet
from fulldeck.networks.residual_net import ResidualNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return MobileNet(3, 5, widths=(8, 16), stem_stride=2, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.1)).eval()


def test_gives_one_row_of_outputs_an_image_of_any_size(net):
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert net(torch.rand(1, 3, 21, 33)).shape == (1, 5)


def test_is_rebuilt_from_json_and_its_state(net):
    copy = build(json.loads(json.dumps(describe(net)))).eval()
    copy.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(copy(images), net(images))


def test_is_about_a_fifth_of_a_residual_net():
    sizes = [sum(p.numel() for p in kind(1, 10).parameters()) for kind in (MobileNet, ResidualNet)]
    assert sizes[0] < 0.21 * sizes[1]


def test_exports_to_onnx_with_a_free_batch(net, tmp_path):
    path = export_onnx(net, torch.rand(2, 3, 16, 16), tmp_path / "net.onnx").path
    more = torch.rand(5, 3, 16, 16)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"input": more.numpy()})
    np.testing.assert_allclose(outputs, net(more).detach().numpy(), atol=1e-4)
