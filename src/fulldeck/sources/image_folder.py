"""Images in folders: one for each class, perhaps inside one for each split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fulldeck.data import Data, Examples
from fulldeck.errors import BadInput
from fulldeck.sources.given_split import WORDS, divide, split_places
from fulldeck.sources.labels import index_labels
from fulldeck.sources.pictures import decode_all

if TYPE_CHECKING:
    from fulldeck.workloads.images import Images

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})


def load_folder(workload: Images, folder: Path) -> Data:
    """Read `folder/CLASS/IMAGE` or `folder/SPLIT/CLASS/IMAGE`. Raises BadInput if it holds no such images."""
    for key in ("image", "label", "split", "group", "time"):
        if getattr(workload, key) is not None:
            raise BadInput(f"{folder} is a folder and has no columns, so {key}: must be left out")
    parts = _folders(folder)
    given = any(part.name.lower() == "train" for part in parts) and all(
        part.name.lower() in WORDS for part in parts
    )
    files: list[Path] = []
    labels: list[str] = []
    splits: list[str] = []
    others = 0
    for part in parts if given else [folder]:
        for group in _folders(part):
            for file in sorted(group.rglob("*")):
                if not file.is_file() or file.name.startswith("."):
                    continue
                if file.suffix.lower() not in SUFFIXES:
                    others += 1
                    continue
                files.append(file)
                labels.append(group.name)
                splits.append(part.name)
    if not files:
        raise BadInput(f"{folder} holds no images in class folders; put them at {folder}/CLASS/IMAGE.png")
    notes = [f"{others:,} files that are no images are left out"] if others else []
    names = [str(file.relative_to(folder)) for file in files]
    pictures = decode_all(files, names, workload.size, corrupt_is_fatal=workload.on_corrupt == "error")
    kept = pictures.kept
    classes = index_labels(np.array(labels, dtype=object)[kept], f"{folder}")
    data = Data(
        workload.name,
        "image",
        "classification",
        Examples(pictures.images, classes.targets),
        classes=classes.classes,
        notes=(*notes, *pictures.notes),
    )
    places = split_places(np.array(splits, dtype=object)[kept], f"{folder}") if given else None
    return divide(data, places, workload.max_train)


def _folders(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
