"""Packages that serving is measured with: a tiny model, digits, one that gains by batches, and two that compute.

But for digits weights are random; what a server adds to a model's own time does not depend on them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import fulldeck as fd
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.files import write_json
from fulldeck.package import PackagedModel, ServiceFile, TensorSpec, seal
from fulldeck.service import Batching, Serving

Constants = dict[str, np.ndarray[Any, Any]]
LARGEST = 64
JOINED = {"batching": Batching(max_batch=LARGEST).model_dump(mode="json")}


def tiny(folder: Path, **settings: Any) -> Path:
    """64 numbers to 10: what is measured is the server."""
    weights = _random(64, 10)
    nodes = [helper.make_node("MatMul", ["input", "weights"], ["output"])]
    return _package(folder, "tiny", nodes, {"weights": weights}, (64,), 10, **settings)


def wide(folder: Path, **settings: Any) -> Path:
    """64 numbers through ten layers of 1024: reading 40 MB of weights is most of a call, whatever its rows."""
    names = ["input", *(f"layer{number}" for number in range(11)), "output"]
    weights = [f"weights{number}" for number in range(12)]
    shapes = [(64, 1024), *[(1024, 1024)] * 10, (1024, 10)]
    nodes = [
        helper.make_node("MatMul", [before, weight], [after])
        for (before, after), weight in zip(pairwise(names), weights, strict=True)
    ]
    constants = {name: _random(*shape) for name, shape in zip(weights, shapes, strict=True)}
    return _package(folder, "wide", nodes, constants, (64,), 10, **settings)


def convolution(folder: Path, **settings: Any) -> Path:
    """An image of 3 x 96 x 96 through convolutions: about 5 ms of a core for each row."""
    channels = (3, 32, 64, *[128] * 5)
    nodes, constants = [], {}
    before = "input"
    for number, (inside, outside) in enumerate(pairwise(channels)):
        constants[f"kernel{number}"] = _random(outside, inside, 3, 3)
        strides = [2, 2] if number < 2 else [1, 1]
        nodes += [
            helper.make_node(
                "Conv", [before, f"kernel{number}"], [f"conv{number}"], strides=strides, pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"]),
        ]
        before = f"relu{number}"
    constants["weights"] = _random(128, 10)
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["output"]),
    ]
    return _package(folder, "convolution", nodes, constants, (3, 96, 96), 10, **settings)


def bert(folder: Path, carried: Mapping[str, Any] = JOINED) -> Path:
    """BERT-base at length 128, whose token ids come as numbers between 0 and 1: about 0.2 s of a core for each row."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    class FromNumbers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.model = BertForSequenceClassification(BertConfig(num_labels=10))

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=(input * 30_000).long()).logits
            return logits

    folder.mkdir(parents=True)
    # Of random weights float32 differs in more digits than of trained ones.
    fd.export_onnx(FromNumbers().eval(), torch.rand(2, 128), folder / "model.onnx", max_difference=1e-2)
    return _packed(folder, "bert", (128,), 10, carried)


def digits(folder: Path, carried: Mapping[str, Any] = JOINED) -> Path:
    """What `fulldeck run digits` packs: the residual network in INT8, as ONNX Runtime runs it."""
    package = _digits()
    shutil.copytree(package, folder)
    service = ServiceFile(**json.loads((folder / "service.json").read_text()))
    served = Serving(workers=1, queue=4096, max_batch=LARGEST)
    changed = service.model_copy(update={"serving": served, "carried": dict(carried)})
    write_json(folder / "service.json", changed.model_dump(mode="json"))
    seal(folder, {"name": "digits"})
    return folder


@cache
def _digits() -> Path:
    out = Path(tempfile.mkdtemp())
    return Path(fd.run("digits", out=out)["run"]) / "package"


MODELS: dict[str, Callable[..., Path]] = {
    "tiny": tiny,
    "digits": digits,
    "wide": wide,
    "convolution": convolution,
    "bert": bert,
}


def _random(*shape: int) -> np.ndarray[Any, Any]:
    scale = np.sqrt(2 / np.prod(shape[1:] if len(shape) > 2 else shape[:1]))
    return (np.random.default_rng(0).normal(size=shape) * scale).astype(np.float32)


def _package(
    folder: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    constants: Constants,
    shape: tuple[int, ...],
    outputs: int,
    carried: Mapping[str, Any] = JOINED,
) -> Path:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["rows", *shape])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return _packed(folder, name, shape, outputs, carried)


def _packed(
    folder: Path, name: str, shape: tuple[int, ...], outputs: int, carried: Mapping[str, Any]
) -> Path:
    """Make the folder with model.onnx a package."""
    service = ServiceFile(
        model=name,
        task="regression",
        inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, *shape)),),
        outputs=(TensorSpec(name="output", datatype="FP32", shape=(-1, outputs)),),
        models=(PackagedModel(path="model.onnx", kind="onnx", precision="fp32", engine="onnxruntime"),),
        serving=Serving(workers=1, queue=4096, max_batch=LARGEST),
        carried=dict(carried),
    )
    write_json(folder / "service.json", service.model_dump(mode="json"))
    write_json(folder / "encoder.json", TensorEncoder(shape).to_json())
    seal(folder, {"name": name})
    return folder
