"""A frozen, strictly checked description whose refusals are one readable line each.

Instructions, workloads and the sections of a recipe are all declared so. Values are checked strictly
(`true` is not 1, `"3"` is not 3); the one leniency is that a list is taken where a tuple is declared,
because YAML has no tuples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fulldeck.errors import BadInput, closest

_RULES = {
    "greater_than_equal": "be at least {ge}",
    "greater_than": "be greater than {gt}",
    "less_than_equal": "be at most {le}",
    "less_than": "be less than {lt}",
    "finite_number": "be a finite number",
    "bool_type": "be true or false",
    "string_type": "be a text",
    "tuple_type": "be a list",
    "dict_type": "be a mapping",
}


class Problem(BadInput):
    """One refused value: `path` leads to it inside the description (for a file and line)."""

    def __init__(self, message: str, path: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.path = path


class Refused(BadInput):
    """At least one refused value; `problems` has them all, and the text has one on each line."""

    def __init__(self, problems: Sequence[BadInput]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Declared(BaseModel):
    """A pydantic model that is frozen, forbids unknown names and explains what it refuses."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise Refused(self._explain(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        return {key: _tuple(value) for key, value in values.items()} if isinstance(values, dict) else values

    @classmethod
    def spoken_name(cls) -> str:
        """The name that users know this description by, for error messages."""
        return cls.__name__.lower()

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`, checked like a new one."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    @classmethod
    def _explain(cls, error: ValidationError) -> list[Problem]:
        return [
            Problem(_sentence(cls, dict(detail)), tuple(detail["loc"]))
            for detail in error.errors(include_url=False)
        ]


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


def _sentence(model: type[Declared], detail: dict[str, Any]) -> str:
    path, kind, value = detail["loc"], detail["type"], detail["input"]
    owner = model.spoken_name()
    name = str(path[0]) if path else owner
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if kind == "extra_forbidden":
        return f'unknown parameter "{name}" of {owner}{closest(name, fields)}'
    if kind == "missing":
        return f"{owner}.{name} is required: {fields[name].description}"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    schema = model.model_json_schema()["properties"].get(name, {}) if name in fields else {}
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and kind in ("greater_than_equal", "less_than_equal"):
        rule = f"be between {low:g} and {high:g}"
    elif kind in _RULES:
        rule = _RULES[kind].format(**detail.get("ctx", {}))
    elif kind == "literal_error":
        rule = f"be one of {detail['ctx']['expected']}"
    else:
        rule = detail["msg"][0].lower() + detail["msg"][1:]
        rule = rule.removeprefix("input should ")
    hint = schema.get("hint")
    near = closest(value, map(str, schema.get("enum", ()))) if isinstance(value, str) else ""
    return f"{owner}.{name} must {rule}, got {value!r}{near or '.'}" + (f" {hint}" if hint else "")
