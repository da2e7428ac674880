import numpy as np
import onnxruntime
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


def test_exports_to_onnx_with_a_free_batch(net, tmp_path):
    program = torch.onnx.export(
        net, (IDS[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    )
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: IDS.numpy()})
    np.testing.assert_allclose(outputs, net(IDS).detach().numpy(), atol=1e-5)


def test_runs_under_bf16_autocast(net):
    with torch.autocast("cpu", torch.bfloat16):
        loss = net.train()(IDS).float().sum()
    loss.backward()
    assert torch.isfinite(net.tokens.weight.grad).all()
