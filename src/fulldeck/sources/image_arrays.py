"""Images as arrays in an `.npz` file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fulldeck.data import Data, Examples
from fulldeck.errors import BadInput
from fulldeck.sources.array_file import ArrayFile
from fulldeck.sources.given_split import WORDS, divide, looks_like_split, split_places
from fulldeck.sources.labels import index_labels
from fulldeck.sources.pictures import resize_all

if TYPE_CHECKING:
    from fulldeck.workloads.images import Images

IMAGES = ("x", "X", "image", "images", "data")
LABELS = ("y", "Y", "label", "labels", "target", "targets")
WHOLE = ""
"""In place of a split's word: an array that is not divided."""
Array = npt.NDArray[Any]


def load_arrays(workload: Images, path: Path) -> Data:
    """Read `x_train`, `y_train`, `x_test`, ..., or arrays with the names in the recipe.

    Images are N x H x W, N x H x W x C or N x C x H x W with 1 or 3 channels, in levels 0..255 or shares
    0..1. Raises BadInput for other shapes and values, and for images and labels that differ in number.
    """
    file = ArrayFile(path)
    notes: list[str] = []
    images = _arrays(file, "image", workload.image, IMAGES, notes)
    labels = _arrays(file, "label", workload.label, LABELS, notes)
    if set(images) != set(labels):
        differ = ", ".join(images[word] for word in images if word not in labels) or "the labels"
        raise BadInput(f"{path}: images and labels do not come in the same splits: {differ}")
    parts = [_levels(file[name], f'array "{name}" of {path}') for name in images.values()]
    targets = [
        _one_each(file[labels[word]], labels[word], part, path)
        for word, part in zip(images, parts, strict=True)
    ]
    if len({part.shape[1:] for part in parts}) > 1:
        raise BadInput(f"{path}: the images of the splits differ in size or colour")
    everything = np.concatenate(parts) if len(parts) > 1 else parts[0]
    classes = index_labels(np.concatenate(targets), str(path))
    if not classes.kept.all():
        raise BadInput(f"{path} has {int((~classes.kept).sum()):,} labels that are missing")
    if workload.size is not None:
        everything = resize_all(everything, workload.size)
    _, channels, height, width = everything.shape
    notes.append(f"images: {'grey' if channels == 1 else 'RGB'}, {width} x {height} pixels")
    if WHOLE in images:
        words = _split(workload, file, len(everything), notes)
    else:
        words = np.repeat(list(images), [len(part) for part in parts])
    examples = Examples(
        everything,
        classes.targets,
        groups=_beside(file, workload.group, len(everything)),
        times=_beside(file, workload.time, len(everything)),
    )
    data = Data(
        workload.name, "image", "classification", examples, classes=classes.classes, notes=tuple(notes)
    )
    places = None if words is None else split_places(words, f"split of {path}")
    return divide(data, places, workload.max_train)


def _arrays(
    file: ArrayFile, key: str, wanted: str | None, usual: tuple[str, ...], notes: list[str]
) -> dict[str, str]:
    """Words of splits to the names of their arrays, such as train to x_train; or WHOLE to one array."""
    for stem in usual if wanted is None else (wanted,):
        found = {
            word: name
            for word in WORDS
            for name in (f"{stem}_{word}", f"{word}_{stem}")
            if name in file.names
        }
        if "train" not in found:
            found = {WHOLE: stem} if stem in file.names else {}
        if found:
            if wanted is None:
                notes.append(f"{key}: {', '.join(found.values())}, by name")
            return found
    if wanted is not None:
        file[wanted]  # says which arrays there are
    raise BadInput(f"{file.path}: name the array with {key}:; it has {', '.join(file.names)}")


def _levels(array: Array, where: str) -> npt.NDArray[np.uint8]:
    """Images as N x C x H x W, uint8."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or min(array.shape[2:]) < 1:
        raise BadInput(f"{where} has shape {list(array.shape)}; images are N x H x W (x 1 or 3)")
    if len(array) == 0:
        raise BadInput(f"{where} has no images")
    if array.dtype.kind not in "buif":
        raise BadInput(f"{where} has type {array.dtype}; images are numbers")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3)))[0])
        raise BadInput(f"{where} has NaN or infinite values, first in image {row + 1:,}")
    low, high = float(array.min()), float(array.max())
    scale = 255 if array.dtype.kind in "bf" and high <= 1 else 1
    if low < 0 or high > 255:
        raise BadInput(f"{where} has values from {low:g} to {high:g}; images are 0 to 255, or 0 to 1")
    return np.ascontiguousarray(np.rint(array * np.float64(scale)).astype(np.uint8))


def _one_each(labels: Array, name: str, images: Array, path: Path) -> Array:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or len(flat) != len(images):
        raise BadInput(
            f'{path}: array "{name}" has shape {list(labels.shape)}; one label for each of {len(images):,} images'
        )
    return flat


def _split(workload: Images, file: ArrayFile, rows: int, notes: list[str]) -> Array | None:
    if workload.split is None and "split" in file.names and looks_like_split(file["split"]):
        notes.append("split: split, by name")
        return _beside(file, "split", rows)
    return _beside(file, workload.split, rows)


def _beside(file: ArrayFile, name: str | None, rows: int) -> Array | None:
    """The array of that name, with one value for each image."""
    if name is None:
        return None
    array = file[name]
    if array.shape != (rows,):
        raise BadInput(f'{file.path}: array "{name}" has shape {list(array.shape)}, not {[rows]}')
    return array
