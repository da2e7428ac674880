import json

import numpy as np
import onnxruntime
import pytest
import torch

from fulldeck.networks import build, describe
from fulldeck.networks.residual_net import ResidualNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ResidualNet(3, 5, widths=(8, 16), stem_stride=2, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.1)).eval()


def test_gives_one_row_of_outputs_an_image_of_any_size(net):
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert net(torch.rand(1, 3, 21, 33)).shape == (1, 5)


def test_is_rebuilt_from_json_and_its_state(net):
    copy = build(json.loads(json.dumps(describe(net)))).eval()
    copy.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(copy(images), net(images))


def test_standardises_its_input_with_the_given_statistics():
    torch.manual_seed(0)
    plain = ResidualNet(1, 2, widths=(4,)).eval()
    standardising = ResidualNet(1, 2, widths=(4,), mean=(0.5,), std=(0.25,)).eval()
    state = {key: value for key, value in plain.state_dict().items() if key not in ("mean", "std")}
    standardising.load_state_dict(state, strict=False)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(standardising(images), plain((images - 0.5) / 0.25))


def test_exports_to_onnx_with_a_free_batch(net, tmp_path):
    images = torch.rand(2, 3, 16, 16)
    program = torch.onnx.export(
        net, (images,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    )
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    more = torch.rand(5, 3, 16, 16)
    (outputs,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    np.testing.assert_allclose(outputs, net(more).detach().numpy(), atol=1e-5)
