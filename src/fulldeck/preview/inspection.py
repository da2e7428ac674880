"""What a user's data are: which kind of workload reads them, and what is seen in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fulldeck.data import Data, Examples
from fulldeck.errors import BadInput
from fulldeck.sources.column_file import ColumnFile, existing
from fulldeck.sources.given_split import WORDS
from fulldeck.sources.image_folder import SUFFIXES
from fulldeck.workload import Workload
from fulldeck.workloads import WORKLOADS, make_workload, workload_class

READ = "a folder with a folder of images for each class, .npz, .csv, .tsv, .parquet or .txt"
RUNNING_TEXT = (".txt", ".md")
TASKS = {"language_model": "language_modelling"}
"""A task as a user names it, where the data call it otherwise."""
LEAST_ITEMS = 20
"""Fewer labelled examples cannot be divided into train, validation and test."""
WORDS_OF_A_TEXT = 5
"""A column whose cells have so many words on average holds texts; with fewer, categories."""
COLUMNS_BESIDE_A_TEXT = 3
"""A file with more columns than these beside a text and its label is a table."""
LOOKED_AT = 200
UNBALANCED = 3
"""Classes are called unbalanced from this ratio of the largest to the smallest on."""
NAMED = 8


@dataclass(frozen=True)
class Inspection:
    """What was seen: `settings` are those of `workload:` in a recipe, `facts` sentences."""

    settings: Mapping[str, Any]
    workload: Workload
    data: Data
    facts: tuple[str, ...]


def inspect_data(
    path: str, task: str | None = None, target: str | None = None, model: str | None = None
) -> Inspection:
    """Look at all of the data at `path` (or at a built-in workload of that name).

    `task` is classification, regression or language_model, `target` the column (or array) to predict;
    left out they are inferred. `model` is a Hugging Face model (a folder, or a name on the hub) to
    fine-tune. Raises BadInput for what cannot be read, what cannot be told apart from anything, columns
    that do not exist, and fewer than LEAST_ITEMS examples.
    """
    settings = recognise(path, task, target)
    if model is not None:
        settings = _pretrained(settings, model)
    workload = make_workload(settings)
    data = workload.load()
    if task is not None and data.task != TASKS.get(task, task):
        raise BadInput(f"{path} is for {data.task}, not {task}; leave --task out, or choose other data")
    count = sum(map(len, data.splits().values()))
    if count < LEAST_ITEMS and data.task in ("classification", "regression"):
        raise BadInput(
            f"{path} has {count} labelled examples; at least {LEAST_ITEMS} are needed for train, validation "
            f"and test{_expected(path)}"
        )
    return Inspection(settings, workload, data, tuple(describe(data)))


def recognise(path: str, task: str | None = None, target: str | None = None) -> dict[str, Any]:
    """The settings of `workload:` for what lies at `path`, by its form. Raises BadInput if it has none."""
    if path in WORKLOADS and not Path(path).exists():
        if any(field.is_required() for field in workload_class(path).model_fields.values()):
            raise BadInput(f"{path} is a kind of workload; --data takes {READ}")
        return {"kind": path}
    there = existing(path)
    if task == "language_model" and target is not None:
        raise BadInput("a language model learns to continue a text; leave --target out")
    if there.is_dir():
        return _folder(there, target)
    suffix = there.suffix.lower()
    named = {} if target is None else {"label": target}
    if suffix in RUNNING_TEXT:
        return {"kind": "language_model", "path": path}
    if suffix == ".npz":
        return {"kind": "images", "path": path, **named}
    if suffix in (".csv", ".tsv", ".parquet", ".pq"):
        return _columns(ColumnFile(path), task, target)
    raise BadInput(f"{path} is none of what is read: {READ}")


def _pretrained(settings: dict[str, Any], model: str) -> dict[str, Any]:
    """The settings of a workload on the same texts that fine-tunes `model`."""
    names = {key: value for key, value in settings.items() if key in ("text", "label", "target")}
    label = {"label": names.pop("target")} if "target" in names else {}
    if settings["kind"] not in ("text", "table", "language_model"):
        raise BadInput(f"--model takes texts, and {settings.get('path', settings['kind'])} holds none")
    task = "causal_lm" if settings["kind"] == "language_model" else "classification"
    return {"kind": "huggingface", "model": model, "data": settings["path"], "task": task, **names, **label}


def _folder(folder: Path, target: str | None) -> dict[str, Any]:
    if (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds a model; give it with --model {folder}, and your texts with --data")
    try:
        inside = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    except PermissionError:
        raise BadInput(f"{folder} cannot be read: permission denied") from None
    layout = f"put images at {folder}/CLASS/IMAGE.png"
    if not inside:
        raise BadInput(f"{folder} is empty; {layout}, or name a file")
    if not any(item.is_dir() for item in inside):
        if any(item.suffix.lower() in RUNNING_TEXT for item in inside):
            return {"kind": "language_model", "path": str(folder)}
        if pictures := sum(item.suffix.lower() in SUFFIXES for item in inside):
            raise BadInput(f"{folder} has {pictures} images, but no folder for each class; {layout}")
        names = _some([item.name for item in inside])
        raise BadInput(f"{folder} has files and no class folders; name one of them ({names}), or {layout}")
    if target is not None:
        raise BadInput(f"the class of an image is the name of its folder in {folder}; leave --target out")
    return {"kind": "images", "path": str(folder)}


def _columns(file: ColumnFile, task: str | None, target: str | None) -> dict[str, Any]:
    names, path = list(file.types), str(file.path)
    if len(names) < 2 and task != "language_model":
        raise BadInput(
            f'{file.path} has one column ("{names[0]}"); a column to predict and one to predict it from are needed'
        )
    if target is not None:
        file.named(target)
    label = {} if target is None else {"label": target}
    if task == "language_model":
        return {"kind": "language_model", "path": path}
    if any(_holds_files(kind) for kind in file.types.values()):
        return {"kind": "images", "path": path, **label}
    text = None if task == "regression" else _text_column(file, target)
    if text is not None:
        return {"kind": "text", "path": path, "text": text, **label}
    found = {"kind": "table", "path": path} | ({} if target is None else {"target": target})
    return found | ({"task": task} if task in ("classification", "regression") else {})


def _holds_files(kind: Any) -> bool:
    """Whether a column of this polars type holds files: bytes, or `{bytes, path}` as `datasets` writes."""
    return str(kind) == "Binary" or str(kind).startswith("Struct({'bytes': Binary")


def _text_column(file: ColumnFile, target: str | None) -> str | None:
    """The column of running text, where the file has one and little beside it."""
    candidates = [name for name in file.types if name != target and file.holds_texts(name)]
    if not candidates:
        return None
    head = file.read(candidates).head(LOOKED_AT)
    words = {
        name: np.mean([len(str(cell).split()) for cell in head[name].drop_nulls()] or [0])
        for name in candidates
    }
    longest = max(candidates, key=lambda name: words[name])
    beside = len(file.types) - 2
    return longest if words[longest] >= WORDS_OF_A_TEXT and beside <= COLUMNS_BESIDE_A_TEXT else None


def describe(data: Data) -> list[str]:
    """What is seen in loaded `data`, one sentence each: size, classes, shapes, lengths, what was inferred."""
    splits = data.splits()
    count = sum(map(len, splits.values()))
    parts = ", ".join(f"{name} {len(part):,}" for name, part in splits.items()) if len(splits) > 1 else ""
    facts = [f"{count:,} examples" + (f": {parts}" if parts else "")]
    if data.task == "classification":
        facts.append(_classes(data, list(splits.values())))
    elif data.task == "regression":
        values = data.train.targets
        facts.append(f"target from {values.min():g} to {values.max():g}, mean {values.mean():g}")
    facts += _form(data.train)
    told = ("split as given", "images: ") if data.kind == "image" else ("split as given",)
    notes = [note for note in data.notes if not note.startswith(told)]
    # What was only guessed goes first: the rest depends on it.
    return sorted(facts + notes, key=lambda fact: not fact.startswith("careful: "))


def _classes(data: Data, parts: list[Examples]) -> str:
    counts = np.bincount(np.concatenate([part.targets for part in parts]))
    names = data.classes or tuple(map(str, range(len(counts))))
    order = np.argsort(-counts, kind="stable")
    listed = ", ".join(f"{names[place]} {counts[place]:,}" for place in order[:NAMED])
    more = f" and {len(order) - NAMED} more" if len(order) > NAMED else ""
    ratio = counts[order[0]] / max(counts[order[-1]], 1)
    unequal = (
        f"; unbalanced: the largest has {ratio:.0f} times the items of the smallest"
        if ratio >= UNBALANCED
        else ""
    )
    return f"{len(order)} classes: {listed}{more}{unequal}"


def _form(examples: Examples) -> list[str]:
    inputs = examples.inputs
    if isinstance(inputs, dict) or examples.targets.ndim > 1:  # of a table and of tokens the notes tell
        return []
    if isinstance(inputs, list):
        words = [len(text.split()) for text in inputs]
        return [f"texts of {np.median(words):.0f} words (median), the longest {max(words):,}"]
    if inputs.dtype == np.uint8 and inputs.ndim == 4:
        _, channels, height, width = inputs.shape
        return [f"images of {width} x {height} pixels, {'grey' if channels == 1 else 'RGB'}"]
    return [f"arrays of {' x '.join(map(str, inputs.shape[1:])) or '1'} {inputs.dtype}"]


def _expected(path: str) -> str:
    folder = Path(path)
    if not folder.is_dir():
        return ""
    splits = "" if any(item.name.lower() in WORDS for item in folder.iterdir()) else "SPLIT/"
    return f"; images are read from {path}/CLASS/IMAGE.png" + (
        f" or {path}/{splits}CLASS/IMAGE.png" if splits else ""
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
