"""How much each layer changes the outputs by being quantised."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fulldeck.data import Array
from fulldeck.engines import open_onnx
from fulldeck.instructions.inference.post_training_quantization.onnx_file import (
    quantiser,
    quantizable_layers,
)
from fulldeck.onnx_file import write_onnx


def layer_sensitivity(path: Path | str, calibration: Mapping[str, Array], **how: Any) -> dict[str, float]:
    """Each layer to the relative error of the outputs (RMS) where it alone is quantised; the most sensitive first.

    `calibration` are rows by input name, on which ranges are learnt and errors measured; `how` is as in
    `quantize_onnx` (mode, method, bit_width). It quantises the file once for each layer.
    """
    layers, errors = quantizable_layers(path), {}
    reference = _outputs(Path(path), calibration)
    size = float(np.sqrt(np.mean(np.square(reference)))) or 1.0
    with quantiser(path, calibration, **how) as quantise, tempfile.TemporaryDirectory() as folder:
        for layer in layers:
            alone = Path(folder) / "alone.onnx"
            write_onnx(quantise([other for other in layers if other != layer]), alone)
            outputs = _outputs(alone, calibration)
            errors[layer] = float(np.sqrt(np.mean(np.square(outputs - reference)))) / size
    return dict(sorted(errors.items(), key=lambda item: item[1], reverse=True))


def _outputs(path: Path, rows: Mapping[str, Array]) -> Array:
    return next(iter(open_onnx(path).run(rows).values())).astype(np.float64)
