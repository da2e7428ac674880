"""Packages with tiny ONNX models, made without torch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from fulldeck.encoders import Encoder
from fulldeck.encoders.image import ImageEncoder
from fulldeck.encoders.table import CategoricalColumn, NumericColumn, TableEncoder
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.files import write_json
from fulldeck.package import PackagedModel, ServiceFile, TensorSpec, seal
from fulldeck.service import Serving

SIDE = 4


def image_package(folder: Path, **serving: Any) -> Path:
    """`shapes`: a grey image of 4 x 4 is "bright" or "dark" by its mean."""
    constants = {
        "weights": np.stack([np.ones(SIDE**2), -np.ones(SIDE**2)], 1).astype(np.float32),
        "bias": np.array([-8, 8], np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["output"]),
    ]
    encoder = ImageEncoder(1, SIDE, SIDE)
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 1, SIDE, SIDE))
    return _package(folder, "shapes", nodes, constants, spec, 2, encoder, ("bright", "dark"), serving)


def sum_package(folder: Path, width: int = 3, **serving: Any) -> Path:
    """`sums`: regression, the sum of a vector."""
    nodes = [helper.make_node("MatMul", ["input", "ones"], ["output"])]
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, width))
    constants = {"ones": np.ones((width, 1), np.float32)}
    return _package(folder, "sums", nodes, constants, spec, 1, TensorEncoder((width,)), (), serving)


def table_package(folder: Path, **serving: Any) -> Path:
    """`cells`: regression, the sum of the columns `row` and `width`."""
    nodes = [helper.make_node("MatMul", ["input", "ones"], ["output"])]
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 2))
    columns = tuple(NumericColumn(name, 0.0, 0.0, 1.0, False) for name in ("row", "width"))
    constants = {"ones": np.ones((2, 1), np.float32)}
    return _package(folder, "cells", nodes, constants, spec, 1, TableEncoder(columns, ()), (), serving)


def city_package(folder: Path, **serving: Any) -> Path:
    """`cities`: regression, 1 for each row, with the one column `city` that is rome or paris."""
    nodes = [helper.make_node("MatMul", ["input", "ones"], ["output"])]
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 3))
    encoder = TableEncoder((), (CategoricalColumn("city", ("paris", "rome")),))
    constants = {"ones": np.ones((3, 1), np.float32)}
    return _package(folder, "cities", nodes, constants, spec, 1, encoder, (), serving)


def rows_package(folder: Path, **serving: Any) -> Path:
    """`rows`: answers each row with the number of rows in the batch that it was in."""
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["count"]),
        helper.make_node("Cast", ["count"], ["rows"], to=onnx.TensorProto.FLOAT),
        helper.make_node("MatMul", ["input", "zeros"], ["nothing"]),
        helper.make_node("Add", ["nothing", "rows"], ["output"]),
    ]
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 3))
    constants = {"first": np.array(0, np.int64), "zeros": np.zeros((3, 1), np.float32)}
    return _package(folder, "rows", nodes, constants, spec, 1, TensorEncoder((3,)), (), serving)


def work_package(folder: Path, products: int = 24, **serving: Any) -> Path:
    """`work`: each row costs so many products with a matrix of 4 MB, and answers 0."""
    size = 1024
    names = ["input", "first", *(f"product{number}" for number in range(products))]
    nodes = [helper.make_node("MatMul", ["input", "wide"], ["first"])]
    nodes += [
        helper.make_node("MatMul", [before, "square"], [after]) for before, after in pairwise(names[1:])
    ]
    nodes.append(helper.make_node("MatMul", [names[-1], "narrow"], ["output"]))
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 3))
    constants = {
        "wide": np.zeros((3, size), np.float32),
        "square": np.zeros((size, size), np.float32),
        "narrow": np.zeros((size, 1), np.float32),
    }
    return _package(folder, "work", nodes, constants, spec, 1, TensorEncoder((3,)), (), serving)


def slow_package(folder: Path, **serving: Any) -> Path:
    """`slow`: regression, zero; each row costs about 20 ms of a core."""
    side, times = 512, 8
    nodes = [
        helper.make_node("MatMul", ["input", "start"], ["wide"]),
        helper.make_node("Unsqueeze", ["wide", "axis"], ["step0"]),
        *(
            node
            for number in range(times)
            for node in (
                helper.make_node("Add", [f"step{number}", "square"], [f"sum{number}"]),
                helper.make_node("MatMul", [f"sum{number}", "square"], [f"step{number + 1}"]),
            )
        ),
        helper.make_node("ReduceMean", [f"step{times}"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["output"]),
    ]
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 3))
    constants = {
        "start": np.zeros((3, side), np.float32),
        "square": np.zeros((side, side), np.float32),
        "axis": np.array([1], np.int64),
    }
    return _package(folder, "slow", nodes, constants, spec, 1, TensorEncoder((3,)), (), serving)


def lookup_package(folder: Path, **serving: Any) -> Path:
    """`lookup`: entry i of 0, 10, 20, 30; the engine refuses any other index."""
    nodes = [helper.make_node("Gather", ["table", "input"], ["output"])]
    spec = TensorSpec(name="input", datatype="INT64", shape=(-1, 1))
    constants = {"table": np.arange(0, 40, 10, dtype=np.float32)}
    return _package(folder, "lookup", nodes, constants, spec, 1, TensorEncoder((1,), "int64"), (), serving)


def _package(
    folder: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    spec: TensorSpec,
    outputs: int,
    encoder: Encoder,
    classes: tuple[str, ...],
    serving: dict[str, Any],
) -> Path:
    kind = onnx.TensorProto.INT64 if spec.datatype == "INT64" else onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", kind, ["rows", *spec.shape[1:]])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    carried = serving.pop("carried", {"batching": {}})
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    service = ServiceFile(
        model=name,
        task="classification" if classes else "regression",
        classes=classes,
        inputs=(spec,),
        outputs=(TensorSpec(name="output", datatype="FP32", shape=(-1, outputs)),),
        models=(PackagedModel(path="model.onnx", kind="onnx", precision="fp32", engine="onnxruntime"),),
        serving=Serving(**{"threads": 1, "stall_ms": 30_000, **serving}),
        carried=carried,
    )
    write_json(folder / "service.json", service.model_dump(mode="json"))
    write_json(folder / "encoder.json", encoder.to_json())
    seal(folder, {"name": name})
    return folder
