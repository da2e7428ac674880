"""The digits model, trained for a few seconds and exported once for all tests of what follows training."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fulldeck.candidate import Candidate
from fulldeck.data import Data
from fulldeck.workload import encoded
from fulldeck.workloads.digits import Digits

EPOCHS = 4


@pytest.fixture(scope="session")
def digits() -> Data:
    workload = Digits()
    whole = workload.load()
    rows = torch.randperm(len(whole.train), generator=torch.Generator().manual_seed(0)).numpy()
    return encoded(
        workload, replace(whole, train=whole.train.take(rows[600:]), validation=whole.train.take(rows[:600]))
    )


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory) -> Candidate:
    """The digits net after EPOCHS epochs; served as the module itself."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    net = Digits().model(digits)
    inputs = torch.from_numpy(digits.encoder.encode(digits.train.inputs)["input"])
    targets = torch.from_numpy(digits.train.targets)
    steps = EPOCHS * -(-len(inputs) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    torch.set_num_threads(threads)
    return Candidate("digits", net.eval(), digits, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="session")
def exported(trained) -> Candidate:
    """The same, with its ONNX file."""
    from fulldeck.instructions.inference.onnx_export import OnnxExport

    return OnnxExport().optimise(trained)


@pytest.fixture(scope="session")
def in_one_engine_only(exported, tmp_path_factory) -> Candidate:
    """The same with an operator at its end that ONNX Runtime has and OpenVINO has not; it changes nothing."""
    import numpy as np
    import onnx

    folder = tmp_path_factory.mktemp("one_engine")
    model = onnx.load(exported.artifact.path)
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["logits" if name == output.name else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(10, dtype=np.float32), "identity"))
    model.graph.node.append(
        onnx.helper.make_node(
            "TransposeMatMul", ["logits", "identity"], [output.name], domain="com.microsoft"
        )
    )
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, folder / "model.onnx")
    artifact = replace(exported.artifact, path=folder / "model.onnx")
    return replace(exported, artifacts=(artifact,), folder=folder)


@pytest.fixture(scope="session")
def quantised(exported, tmp_path_factory) -> Candidate:
    """The same, with its INT8 file."""
    from fulldeck.instructions.inference.post_training_quantization import PostTrainingQuantization

    # In a folder of its own: others write INT8 files of `exported` too.
    return PostTrainingQuantization().optimise(replace(exported, folder=tmp_path_factory.mktemp("quantised")))


@pytest.fixture(scope="session")
def accuracy():
    """Of a candidate in its current form, on validation data."""

    def measure(candidate: Candidate) -> float:
        rows = candidate.judged
        return float((candidate.run(candidate.encoded(rows)).argmax(axis=1) == rows.targets).mean())

    return measure
