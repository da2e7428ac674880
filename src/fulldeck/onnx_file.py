"""ONNX files, whose weights lie beside them where they are larger than one file can be."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fulldeck.files import refusing_disk, write_with

if TYPE_CHECKING:
    from onnx import ModelProto

LIMIT = 2**31 - 2**26
"""Bytes of weights that one file holds: the format ends at 2 GiB, and the graph needs room too."""
_DATA = ".data"


def write_onnx(model: ModelProto, path: Path, check: Callable[[Path], object] = lambda file: None) -> None:
    """Write `model` to `path`, with its weights in `NAME.data` beside it if they are larger than LIMIT.

    `check` gets the written file before it takes the place of an old one; what it raises leaves that in place.
    Raises BadInput where the disk is full. `model` may be changed.
    """
    import onnx

    data = path.with_name(path.name + _DATA)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= LIMIT:

        def write(temporary: Path) -> None:
            temporary.write_bytes(model.SerializeToString())
            check(temporary)

        write_with(path, write)
        data.unlink(missing_ok=True)
        return
    with (
        refusing_disk(path),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as name,
    ):
        whole = Path(name) / path.name
        onnx.save_model(
            model, whole, save_as_external_data=True, all_tensors_to_one_file=True, location=data.name
        )
        check(whole)
        (whole.parent / data.name).replace(data)
        whole.replace(path)


def model_files(path: Path) -> list[Path]:
    """`path`, and its weights if they lie beside it."""
    data = path.with_name(path.name + _DATA)
    return [path, data] if path.suffix == ".onnx" and data.is_file() else [path]


def copy_model(source: Path, target: Path) -> None:
    """Copy a model's file to `target`, and its weights, if they lie beside it, by their own name."""
    file, *data = model_files(source)
    for one in data:
        write_with(target.with_name(one.name), partial(shutil.copyfile, one))
    write_with(target, partial(shutil.copyfile, file))
