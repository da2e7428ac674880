"""What turns raw values into the model's input, as a part of the ONNX graph: pixels, or the columns of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fulldeck.encoders import Encoder
from fulldeck.encoders.image import ImageEncoder
from fulldeck.encoders.table import LIMIT, CategoricalColumn, NumericColumn, TableEncoder
from fulldeck.errors import CannotAct
from fulldeck.onnx_file import write_onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

MISSING = ""
"""The text of a missing category: ONNX has no other."""
_ML = "ai.onnx.ml"


def embed_preprocessing(path: Path | str, encoder: Encoder, out: Path | str) -> Path:
    """Write the ONNX file `path` to `out` with what `encoder` computes in front of it, and return `out`.

    For images the file then takes uint8 pixels (N x C x H x W, decoded and of the right size); for tables one input
    of N values for each column: numbers as float64 with NaN, categories as texts with "" where one is missing. Raises
    CannotAct for other encoders: splitting texts into tokens has no operators in ONNX.
    """
    import onnx

    model = onnx.load(path)
    if isinstance(encoder, ImageEncoder):
        _pixels(model, encoder)
    elif isinstance(encoder, TableEncoder):
        _columns(model, encoder)
    else:
        raise CannotAct(
            f"preprocessing of {encoder.kind} has no operators in ONNX; leave preprocessing out (the package has it)"
        )
    write_onnx(model, Path(out))
    return Path(out)


def raw_inputs(encoder: Encoder, inputs: Any) -> dict[str, Any]:
    """Raw examples as the file takes them."""
    if isinstance(encoder, TableEncoder):
        texts = {column.name for column in encoder.categorical}
        return {
            name: np.array([MISSING if cell is None else cell for cell in inputs[name]], dtype=object)
            if name in texts
            else np.asarray(inputs[name], dtype=np.float64)
            for name in encoder.columns
        }
    return {"input": np.ascontiguousarray(inputs)}


def _pixels(model: ModelProto, encoder: ImageEncoder) -> None:
    from onnx import TensorProto, helper, numpy_helper

    name = model.graph.input[0].name
    shape = ["batch", encoder.channels, encoder.height, encoder.width]
    scale = numpy_helper.from_array(np.float32(1 / 255), "pixel_scale")
    nodes = [
        helper.make_node("Cast", [name], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "pixel_scale"], ["encoded_input"]),
    ]
    _prepend(model, name, nodes, [helper.make_tensor_value_info(name, TensorProto.UINT8, shape)], [scale])


def _columns(model: ModelProto, encoder: TableEncoder) -> None:
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[NodeProto] = []
    inputs: list[ValueInfoProto] = []
    constants = [
        numpy_helper.from_array(np.array([1], np.int64), "column_axis"),
        numpy_helper.from_array(np.float32(1), "column_one"),
        numpy_helper.from_array(np.float64(-LIMIT), "column_least"),
        numpy_helper.from_array(np.float64(LIMIT), "column_most"),
    ]
    parts: list[str] = []
    columns: list[NumericColumn | CategoricalColumn] = [*encoder.numeric, *encoder.categorical]
    for place, column in enumerate(columns):
        kind = TensorProto.DOUBLE if isinstance(column, NumericColumn) else TensorProto.STRING
        inputs.append(helper.make_tensor_value_info(column.name, kind, ["batch"]))
        if isinstance(column, NumericColumn):
            parts += _number(column, f"column_{place}", nodes, constants)
        else:
            parts += _category(column, f"column_{place}", nodes)
    nodes.append(helper.make_node("Concat", parts, ["encoded_input"], axis=1))
    if encoder.categorical and not any(one.domain == _ML for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_ML, 3))
    _prepend(model, model.graph.input[0].name, nodes, inputs, constants)


def _number(
    column: NumericColumn, own: str, nodes: list[NodeProto], constants: list[TensorProto]
) -> list[str]:
    from onnx import TensorProto, helper, numpy_helper

    facts = {"fill": column.fill, "mean": column.mean, "std": column.std}
    constants += [
        numpy_helper.from_array(np.float64(value), f"{own}_{name}") for name, value in facts.items()
    ]
    make = helper.make_node
    nodes += [
        make("IsNaN", [column.name], [f"{own}_missing"]),
        make("Where", [f"{own}_missing", f"{own}_fill", column.name], [f"{own}_filled"]),
        make("Sub", [f"{own}_filled", f"{own}_mean"], [f"{own}_centred"]),
        make("Div", [f"{own}_centred", f"{own}_std"], [f"{own}_scaled"]),
        make("Clip", [f"{own}_scaled", "column_least", "column_most"], [f"{own}_clipped"]),
        make("Cast", [f"{own}_clipped"], [f"{own}_float"], to=TensorProto.FLOAT),
        make("Unsqueeze", [f"{own}_float", "column_axis"], [f"{own}_value"]),
    ]
    if not column.indicator:
        return [f"{own}_value"]
    nodes += [
        make("Cast", [f"{own}_missing"], [f"{own}_flag"], to=TensorProto.FLOAT),
        make("Unsqueeze", [f"{own}_flag", "column_axis"], [f"{own}_indicator"]),
    ]
    return [f"{own}_value", f"{own}_indicator"]


def _category(column: CategoricalColumn, own: str, nodes: list[NodeProto]) -> list[str]:
    from onnx import helper

    names = [MISSING if one is None else one for one in column.categories]
    nodes += [
        helper.make_node(
            "OneHotEncoder", [column.name], [f"{own}_known"], domain=_ML, cats_strings=names, zeros=1
        ),
        helper.make_node("ReduceSum", [f"{own}_known", "column_axis"], [f"{own}_count"], keepdims=1),
        helper.make_node("Sub", ["column_one", f"{own}_count"], [f"{own}_other"]),
    ]
    return [f"{own}_other", f"{own}_known"]


def _prepend(
    model: ModelProto,
    name: str,
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    constants: list[TensorProto],
) -> None:
    """Put `nodes`, which make `encoded_input`, before the graph, in place of its input `name`."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["encoded_input" if one == name else one for one in node.input]
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(constants)
