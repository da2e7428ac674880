import numpy as np
import onnxruntime
import torch

from fulldeck.networks.mlp import Mlp


def test_regression_is_in_the_unit_of_the_target_after_an_export_too(tmp_path):
    torch.manual_seed(0)
    net = Mlp(4, 1, widths=(8,), target_mean=1000.0, target_std=50.0).eval()
    rows = torch.randn(6, 4)
    outputs = net(rows)
    assert 800 < outputs.min() < outputs.max() < 1200
    program = torch.onnx.export(
        net, (rows[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    )
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
    np.testing.assert_allclose(exported, outputs.detach().numpy(), rtol=1e-5)
