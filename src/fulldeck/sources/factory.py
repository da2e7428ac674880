"""A user's factory function: found, called, and what it returns checked."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.utils.data import Dataset

from fulldeck.data import Examples
from fulldeck.errors import BadInput, closest
from fulldeck.sources.given_split import WORDS

KEYS = ("model", "data", "loss", "metrics")


@dataclass(frozen=True)
class Brought:
    """What a factory returned: examples by split, and model, loss and metrics as they are."""

    model: nn.Module | Callable[[], nn.Module]
    parts: Mapping[str, Examples]
    loss: Callable[[Any, Tensor], Tensor] | None
    metrics: Mapping[str, Callable[[Tensor, Tensor], float]] | None


def find_function(factory: str, folder: Path) -> Callable[[], Any]:
    """The function that `package.module:function` names, imported from `folder` or the current one.

    Both are put at the front of `sys.path` and stay there, because the function may import later. Raises
    BadInput if the module or the function is missing, or the module cannot be imported.
    """
    module_name, colon, name = factory.partition(":")
    if not colon or not name.isidentifier() or not all(p.isidentifier() for p in module_name.split(".")):
        raise BadInput(f'factory must be "package.module:function", got "{factory}"')
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder, so {module_name} cannot be imported from it")
    for place in (os.getcwd(), str(folder.resolve())):
        if place not in sys.path:
            sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise BadInput(f"there is no module {error.name} in {folder.resolve()}") from None
        raise BadInput(f"{module_name} cannot be imported: {error}") from error
    except (ImportError, SyntaxError) as error:
        raise BadInput(f"{module_name} cannot be imported: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise BadInput(f"{module_name} has no function {name}{closest(name, functions)}")
    result: Callable[[], Any] = function
    return result


def called(function: Callable[[], Any], factory: str) -> Any:
    """What the user's function returns. Raises BadInput with the place in the user's code if it raises."""
    try:
        return function()
    except BadInput:
        raise
    except (
        Exception
    ) as error:  # the user's code may raise anything; none of it is ours to show as a traceback
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        raise BadInput(f"{factory} raised {type(error).__name__}: {error}", where) from error


def take(value: Any, factory: str, notes: list[str]) -> Brought:
    """Check what the factory returned, and bring its data into arrays.

    Raises BadInput if it is something else, and for data that are empty, not numbers or not finite.
    """
    items = _items(value, factory)
    model = items.get("model")
    if not callable(model):
        raise BadInput(
            f"model of {factory} must be a module or a function that builds one, got {_name(model)}"
        )
    loss, metrics = items.get("loss"), items.get("metrics")
    if loss is not None and not callable(loss):
        raise BadInput(f"loss of {factory} must be a function, got {_name(loss)}")
    if metrics is not None and not (
        isinstance(metrics, Mapping) and metrics and all(callable(metric) for metric in metrics.values())
    ):
        raise BadInput(f"metrics of {factory} must map names to functions, got {_name(metrics)}")
    data = items.get("data")
    if not isinstance(data, Mapping):
        data = {"train": data}
    if unknown := [word for word in data if word not in WORDS]:
        raise BadInput(f'data of {factory} has "{unknown[0]}"; there may be train, validation and test')
    parts = {
        WORDS[word]: _examples(part, f"{word} data of {factory}", notes)
        for word, part in data.items()
        if part is not None
    }
    if "train" not in parts:
        raise BadInput(f"data of {factory} has no train part")
    if len({(rows.inputs.shape[1:], rows.targets.dtype.kind) for rows in parts.values()}) > 1:  # type: ignore[union-attr]
        raise BadInput(f"the parts of the data of {factory} differ in shape or kind of target")
    return Brought(model, parts, loss, metrics)


def _items(value: Any, factory: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        if unknown := [key for key in value if key not in KEYS]:
            raise BadInput(
                f'{factory} returns the unknown key "{unknown[0]}"{closest(str(unknown[0]), KEYS)}; '
                f"keys are {', '.join(KEYS)}"
            )
        items = dict(value)
    elif isinstance(value, tuple):
        if len(value) > len(KEYS):
            raise BadInput(f"{factory} returns {len(value)} things; there are {', '.join(KEYS)}")
        items = dict(zip(KEYS, value, strict=False))
    else:
        items = {key: getattr(value, key) for key in KEYS if hasattr(value, key)}
    if absent := [key for key in ("model", "data") if items.get(key) is None]:
        raise BadInput(
            f"{factory} must return model, data, loss, metrics (mapping, tuple or object); "
            f"{absent[0]} is missing from the {_name(value)}"
        )
    return items


def _examples(part: Any, where: str, notes: list[str]) -> Examples:
    if isinstance(part, Dataset):
        if not hasattr(part, "__len__"):
            raise BadInput(f"{where}: a Dataset needs a length, since it is read into memory")
        pairs = [part[place] for place in range(len(part))]
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise BadInput(f"{where}: a Dataset must give pairs of input and target")
        notes.append(f"{where}: {len(pairs):,} items of a Dataset were read into memory, once")
        part = tuple(_stacked([pair[i] for pair in pairs], where) for i in (0, 1))
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        raise BadInput(f"{where} must be (inputs, targets) or a Dataset, got {_name(part)}")
    inputs, targets = (_array(values, where) for values in part)
    if len(inputs) != len(targets):
        raise BadInput(f"{where} has {len(inputs):,} inputs and {len(targets):,} targets")
    if not len(inputs):
        raise BadInput(f"{where} is empty")
    if inputs.ndim < 2:
        raise BadInput(f"{where}: inputs have shape {list(inputs.shape)}; they need N rows of values")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        raise BadInput(f"{where}: targets have shape {list(targets.shape)}; they must be N numbers")
    if targets.dtype.kind == "i" and targets.min() < 0:
        raise BadInput(f"{where} has negative classes; they are counted from 0")
    return Examples(inputs, targets)


def _array(values: Any, where: str) -> npt.NDArray[Any]:
    """Numbers as float32 or, if they are whole, int64."""
    try:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError):
        raise BadInput(f"{where} is no array of one shape") from None
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise BadInput(f"{where} must be arrays or tensors of numbers, got {_name(values)}")
    if array.dtype.kind != "f":
        return np.ascontiguousarray(array, dtype=np.int64)
    if not np.isfinite(array).all():
        rows = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        raise BadInput(
            f"{where} has NaN or infinite values, first in row {int(np.flatnonzero(rows)[0]) + 1:,}"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def _stacked(items: list[Any], where: str) -> npt.NDArray[Any]:
    arrays = [item.detach().cpu().numpy() if isinstance(item, Tensor) else np.asarray(item) for item in items]
    if not arrays:
        raise BadInput(f"{where} is empty")
    if len({array.shape for array in arrays}) > 1:
        raise BadInput(f"{where}: the items differ in shape")
    return np.stack(arrays)


def _name(value: Any) -> str:
    return type(value).__name__
