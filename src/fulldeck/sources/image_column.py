"""Images as encoded files in a column of a parquet file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fulldeck.data import Data, Examples
from fulldeck.errors import BadInput, extra
from fulldeck.sources.aside import Aside
from fulldeck.sources.column_file import ColumnFile, array
from fulldeck.sources.labels import index_labels
from fulldeck.sources.pictures import decode_all

if TYPE_CHECKING:
    from fulldeck.workloads.images import Images

IMAGES = ("image", "img", "jpeg", "png", "bytes", "picture")
LABELS = ("label", "labels", "class", "target", "category", "y")


def load_column(workload: Images) -> Data:
    """Read one image a row. Raises BadInput if no column holds bytes, or the one named does not."""
    notes: list[str] = []
    file = ColumnFile(workload.path)
    aside = Aside.find(workload, file, notes)
    image = _image(workload, file, notes)
    label = file.usual("label", LABELS, notes) if workload.label is None else file.named(workload.label)
    if label is None:
        raise BadInput(f"{file.path}: name the column of labels with label:; it has {file.listed}")
    frame = file.read(list(dict.fromkeys([image, label, *aside.columns])))
    labels = index_labels(array(frame[label]), file.where(label))
    rows = np.flatnonzero(labels.kept)
    frame = frame[rows]
    column = frame[image]
    contents = (column.struct.field("bytes") if _is_struct(file, image) else column).to_list()
    names = [f"row {row + 1:,}" for row in rows]
    pictures = decode_all(contents, names, workload.size, corrupt_is_fatal=workload.on_corrupt == "error")
    data = Data(
        workload.name,
        "image",
        "classification",
        Examples(pictures.images, labels.targets[pictures.kept]),
        classes=labels.classes,
        notes=(*notes, *labels.notes, *pictures.notes),
    )
    return aside.placed(data, frame[pictures.kept], workload.max_train)


def _image(workload: Images, file: ColumnFile, notes: list[str]) -> str:
    holding = [name for name in file.types if _is_binary(file, name) or _is_struct(file, name)]
    if workload.image is not None:
        if file.named(workload.image) not in holding:
            raise BadInput(
                f"{file.where(workload.image)} holds no encoded images, but {_type(file, workload.image)}"
            )
        return workload.image
    if not holding:
        raise BadInput(f"{file.path} has no column with encoded images; it has {file.listed}")
    named = [name for usual in IMAGES for name in holding if name.lower() == usual]
    chosen = (named or holding)[0]
    notes.append(f'image: column "{chosen}", which holds files')
    return chosen


def _type(file: ColumnFile, name: str) -> str:
    return str(file.types[name])


def _is_binary(file: ColumnFile, name: str) -> bool:
    return bool(file.types[name] == extra("polars", "files").Binary)


def _is_struct(file: ColumnFile, name: str) -> bool:
    """Whether it is a column as the Hugging Face `datasets` library writes it: `{bytes, path}`."""
    kind: Any = file.types[name]
    return isinstance(kind, extra("polars", "files").Struct) and "bytes" in kind.to_schema()
