"""One declaration of a parameter feeds constructor, YAML check, JSON schema, search space and docs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field


def param(
    default: Any,
    *,
    doc: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    search: Sequence[Any] | None = None,
    hint: str | None = None,
    alias: str | None = None,
) -> Any:
    """Declare one parameter of an instruction or a workload.

    `doc` is one sentence with the unit; `search` lists the values worth trying; `hint` says in one
    sentence what to write instead, and is added to the error of a refused value. `alias` is its name to
    the user where a method has that name.
    """
    extra: dict[str, Any] = {}
    if search is not None:
        extra["search"] = list(search)
    if hint is not None:
        extra["hint"] = hint
    bounds: dict[str, Any] = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    return Field(default, description=doc, json_schema_extra=extra or None, alias=alias, **bounds)
