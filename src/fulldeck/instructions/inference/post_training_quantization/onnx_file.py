"""An ONNX file quantised after training, by ONNX Runtime's or nncf's quantiser."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fulldeck.data import Array
from fulldeck.errors import BadInput, CannotAct, closest, extra
from fulldeck.instructions.inference.post_training_quantization.layers import (
    layers_of,
    share_of_products,
    split_gemms,
)
from fulldeck.instructions.inference.post_training_quantization.smoothing import (
    NORMALISATIONS,
    smooth_outliers,
)
from fulldeck.onnx_file import model_files, write_onnx
from fulldeck.quantization.onnx_integers import float_layers_read_floats

if TYPE_CHECKING:
    from onnx import ModelProto

Mode = Literal["static", "dynamic", "weights"]
Method = Literal["minmax", "entropy", "percentile"]
Quantise = Callable[[Sequence[str]], "ModelProto"]
"""Gives the integer form in which these layers stay in float."""

MAX_BATCH = 32
BLOCK = 32
"""Weights that share a scale, where only weights are quantised."""
MOST_PRODUCTS = 0.5
"""Share of a model's weights that are those of matrix products, below which weights alone are not worth it."""
PRODUCTS = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"]
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def quantize_onnx(
    path: Path | str,
    out: Path | str,
    calibration: Mapping[str, Array] | None = None,
    *,
    mode: Mode = "static",
    method: Method = "minmax",
    bit_width: Literal[8, 4] = 8,
    smooth: float = 0.0,
    keep: Sequence[str] = (),
) -> Path:
    """Write an integer form of the ONNX file `path` to `out`, and return `out`.

    `calibration` has the model's inputs by name, N rows each; static quantisation needs it. Static and dynamic:
    weights become int8 with one scale per output channel, activations uint8: the pair that x86 dot products
    (VNNI) take. `weights`: only those of matrix products and look-ups, with `bit_width` bits and a scale for 32 of
    them. `smooth` (0 to 1; static) moves so much of the outliers of activations into the weights. Layers in `keep`
    (see `quantizable_layers`) stay in float. Metadata of the file is kept.

    Raises BadInput if there is no file `path`, without calibration rows where they are needed, or for an unknown
    layer; CannotAct where no kernel of an engine takes `bit_width` bits in this `mode`, or there is nothing to
    quantise.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path} does not exist; export_onnx writes such a file")
    with quantiser(
        path, calibration, mode=mode, method=method, bit_width=bit_width, smooth=smooth
    ) as quantise:
        write_onnx(quantise(keep), Path(out))
    return Path(out)


@contextlib.contextmanager
def quantiser(
    path: Path | str,
    calibration: Mapping[str, Array] | None,
    *,
    mode: Mode = "static",
    method: Method = "minmax",
    bit_width: Literal[8, 4] = 8,
    smooth: float = 0.0,
) -> Iterator[Quantise]:
    """What makes integer forms of the ONNX file `path`; ranges are learnt once for all of them.

    Arguments and errors are those of `quantize_onnx`.
    """
    import onnx

    if bit_width == 4 and mode != "weights":
        raise CannotAct(
            f"no engine here has kernels for {mode} quantisation with 4 bits; write mode: weights, or take "
            "quantization_aware_training"
        )
    original = onnx.load(path, load_external_data=False)
    with tempfile.TemporaryDirectory() as name:
        prepared, quantised = Path(name) / "prepared.onnx", Path(name) / "quantised.onnx"
        with quiet():
            prepare(Path(path), prepared)
            if not layers_of(onnx.load(prepared)):
                raise CannotAct("the model has no convolution or matrix product with weights to quantise")
            if mode == "static" and smooth:
                onnx.save(smooth_outliers(onnx.load(prepared), _rows(calibration), smooth), prepared)

        def quantise(keep: Sequence[str]) -> ModelProto:
            with quiet():
                kept = _nodes(onnx.load(prepared), keep)
                if mode == "weights":
                    model = _weights_only(onnx.load(prepared), bit_width, kept)
                else:
                    ranges = Path(name) / "ranges.json"
                    _weights_and_activations(prepared, quantised, calibration, mode, method, kept, ranges)
                    model = onnx.load(quantised)
                    float_layers_read_floats(model)
            return _slim(model, original)

        yield quantise


def quantize_onnx_by_nncf(
    path: Path | str,
    out: Path | str,
    calibration: Mapping[str, Array],
    *,
    transformer: bool = False,
    keep: Sequence[str] = (),
) -> Path:
    """Write an int8 form of the ONNX file `path` to `out` by nncf, OpenVINO's quantiser; return `out`.

    It corrects biases for what rounding shifts, and balances outliers of a `transformer`. Raises BadInput where nncf
    is not installed, or for an unknown layer in `keep`.
    """
    import onnx

    rows = _rows(calibration)
    count = len(next(iter(rows.values())))
    with tempfile.TemporaryDirectory() as name, quiet():
        nncf: Any = extra("nncf", "nncf")
        prepare(Path(path), Path(name) / "prepared.onnx")
        model = onnx.load(Path(name) / "prepared.onnx")
        kept = _nodes(model, keep)
        made = nncf.quantize(
            model,
            nncf.Dataset([{key: value[n : n + 1] for key, value in rows.items()} for n in range(count)]),
            subset_size=count,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
        )
    write_onnx(_slim(made, onnx.load(path, load_external_data=False)), Path(out))
    return Path(out)


def quantizable_layers(path: Path | str) -> list[str]:
    """The convolutions and products of the ONNX file `path` that have weights, by the name to `keep` them."""
    import onnx

    with tempfile.TemporaryDirectory() as name, quiet():
        prepared = Path(name) / "prepared.onnx"
        prepare(Path(path), prepared)
        return list(layers_of(onnx.load(prepared)))


def prepare(path: Path, prepared: Path) -> None:
    """Write the file with its constants folded and all shapes inferred, as quantisers want it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = len(model_files(path)) > 1
    quant_pre_process(
        path,
        prepared,
        skip_symbolic_shape=True,
        save_as_external_data=large,
        all_tensors_to_one_file=large,
        external_data_location=f"{prepared.name}.data" if large else None,
    )


def _nodes(model: ModelProto, keep: Sequence[str]) -> list[str]:
    layers = layers_of(model)
    for name in keep:
        if name not in layers:
            raise BadInput(f'there is no layer "{name}" to keep{closest(name, layers)}')
    return [node.name for name in keep for node in layers[name]]


def _weights_and_activations(
    prepared: Path,
    quantised: Path,
    calibration: Mapping[str, Array] | None,
    mode: Mode,
    method: Method,
    kept: list[str],
    ranges: Path,
) -> None:
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    if mode == "dynamic":
        quantize_dynamic(
            prepared, quantised, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=kept
        )
        return
    quantize_static(
        prepared,
        quantised,
        _reader(_rows(calibration)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        calibrate_method=CalibrationMethod[_METHODS[method]],
        nodes_to_exclude=kept,
        op_types_to_quantize=PRODUCTS if _normalises(onnx.load(prepared)) else None,
        calibration_cache_path=ranges,
    )


def _normalises(model: ModelProto) -> bool:
    """Whether it is a transformer, in which products alone are quantised: the rest gains nothing by integers, and a
    mask of attention has no range that integers could hold.
    """
    return any(node.op_type in NORMALISATIONS for node in model.graph.node)


def _weights_only(model: ModelProto, bit_width: int, kept: list[str]) -> ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # ONNX Runtime's kernels for blocks of weights are of products and look-ups.
    split_gemms(model)
    if (share := share_of_products(model)) < MOST_PRODUCTS:
        raise CannotAct(
            f"engines have kernels of {bit_width}-bit weights for matrix products, and {1 - share:.0%} of this "
            "model's weights are of convolutions; write mode: static, or take quantization_aware_training"
        )
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=bit_width,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,  # products of 8-bit integers
        nodes_to_exclude=kept,
        op_types_to_quantize=("MatMul", "Gather") if bit_width == 4 else ("MatMul",),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer.process()
    made: ModelProto = quantizer.model.model
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the quantisers print and log from the console."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _rows(calibration: Mapping[str, Array] | None) -> Mapping[str, Array]:
    if calibration is None or not len(next(iter(calibration.values()), ())):
        raise BadInput("static quantisation needs calibration rows; give some, or choose mode dynamic")
    return calibration


def _reader(calibration: Mapping[str, Array]) -> object:
    """The rows in batches of one size: the histograms of ONNX Runtime cannot take a ragged last one."""
    from onnxruntime.quantization import CalibrationDataReader

    count = len(next(iter(calibration.values())))
    size = next(size for size in range(MAX_BATCH, 0, -1) if count % size == 0)
    batches: Iterator[dict[str, Array]] = (
        {name: np.ascontiguousarray(rows[start : start + size]) for name, rows in calibration.items()}
        for start in range(0, count, size)
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Array] | None:
            return next(batches, None)

    return Reader()


def _slim(model: ModelProto, original: ModelProto) -> ModelProto:
    """`model` without what no engine needs: shapes of inner tensors, unused operator sets, marks of the tools."""
    del model.graph.value_info[:]
    used = {"", "ai.onnx"} | {node.domain for node in (*model.graph.node, *model.functions)}
    sets = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(sets)
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    return model
