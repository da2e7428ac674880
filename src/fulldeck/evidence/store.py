"""Results of measurements as files: one JSON document for each instruction and recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fulldeck.errors import BadInput
from fulldeck.files import write_json

DEFAULT = Path("evidence")
NOT_MEASURED = "not measured"
"""The verdict on an instruction that could not be measured; beside it there is only the reason."""


def keep(result: Mapping[str, Any], folder: Path = DEFAULT) -> Path:
    """Write `result` to NAME-on-WORKLOAD.json in `folder`, replacing an older one; return the file.

    A refusal (NOT_MEASURED) goes to NAME-not-measured.json, so that it replaces no measurement.
    """
    refusal = f"{result['name']}-not-measured"
    if result["verdict"] == NOT_MEASURED:
        return _write(result, folder, refusal)
    path = _write(result, folder, f"{result['name']}-on-{result['workload']}")
    (folder / f"{refusal}.json").unlink(missing_ok=True)
    return path


def keep_contributions(result: Mapping[str, Any], folder: Path = DEFAULT) -> Path:
    """Write what `contributions` found to RECIPE-contributions.json in `folder`; return the file."""
    return _write(result, folder, f"{result['name']}-contributions")


def kept(folder: Path = DEFAULT) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The measurements in `folder`, by name. Raises BadInput for a file that is none."""
    return ((path, one) for path, one in _read(folder) if one.get("verdict", NOT_MEASURED) != NOT_MEASURED)


def kept_refusals(folder: Path = DEFAULT) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What could not be measured and why, as far as it is kept in `folder`. Raises BadInput likewise."""
    return ((path, one) for path, one in _read(folder) if one.get("verdict") == NOT_MEASURED)


def kept_contributions(folder: Path = DEFAULT) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What `contributions` found, as far as it is kept in `folder`, by name. Raises BadInput likewise."""
    return ((path, result) for path, result in _read(folder) if "pairs" in result)


def _read(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_bytes())
        except ValueError:
            raise BadInput(f"{path} is not JSON; remove it or measure again") from None
        if isinstance(result, dict):
            yield path, _read_bounds(result)


def _write(result: Mapping[str, Any], folder: Path, name: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror}; choose another with --out") from None
    path = folder / f"{name}.json"
    write_json(path, as_json(result))
    return path


def as_json(value: Any) -> Any:
    """`value` with null in place of what JSON has no form for: the ends of an interval without bounds."""
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_bounds(value: Any, key: str = "") -> Any:
    """What `as_json` made of a result, with its intervals as they were."""
    if isinstance(value, dict):
        return {name: _read_bounds(item, name) for name, item in value.items()}
    if isinstance(value, list):
        if key == "interval" and None in value:
            return [
                end if end is not None else bound
                for end, bound in zip(value, (-math.inf, math.inf), strict=True)
            ]
        return [_read_bounds(item) for item in value]
    return value
