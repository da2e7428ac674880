"""The JSON schema of a recipe, by which editors complete and check one; made from the catalogue only.

It is draft 7, which editors' YAML extensions understand. What JSON schema cannot say (order, conflicts,
what fits to the data) is checked by `fulldeck plan`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fulldeck.catalogue import FILE, Entry, catalogue
from fulldeck.hardware.profile import shipped_profiles

SCHEMA = "fulldeck.schema.json"
"""The file beside a recipe by which editors know it: the recipe's first line names it."""

Schema = dict[str, Any]

_FLAGS: Mapping[str, Schema] = {
    "optional": {
        "type": "boolean",
        "default": False,
        "description": "Go on without it where it cannot act.",
    },
    "tolerate": {
        "type": "boolean",
        "default": False,
        "description": "Go on where it breaks its tolerance.",
    },
}


def recipe_schema() -> Schema:
    """The schema of a recipe, with the built-in instructions and those of installed plugins."""
    return schema_of(catalogue(), json.loads(FILE.read_bytes()))


def schema_of(instructions: Iterable[Entry], sections: Mapping[str, Any]) -> Schema:
    """The schema of a recipe with these `instructions`; `sections` is the content of catalogue.json."""
    entries = {entry.name: entry for entry in instructions}
    parameters = {name: _entry_schema(entry) for name, entry in entries.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A fulldeck recipe",
        "type": "object",
        "required": ["workload"],
        "additionalProperties": False,
        "properties": {
            "workload": _workload(sections["workloads"]),
            "hardware": {
                "type": "string",
                "default": "auto",
                "examples": ["auto", *shipped_profiles()],
                "description": "A hardware profile's name or .toml file, whose parameters are taken where the "
                "recipe says nothing; auto: each instruction looks at the machine itself.",
            },
            "train": _section(sections["train"], "What is left out is taken from the workload."),
            "instructions": {
                "description": "What to do, as a list.",
                "type": ["array", "null"],
                "items": {
                    "oneOf": [
                        {"oneOf": [{"const": e.name, "description": e.title} for e in entries.values()]},
                        {
                            "type": "object",
                            "properties": parameters,
                            "additionalProperties": False,
                            "minProperties": 1,
                            "maxProperties": 1,
                        },
                    ]
                },
            },
            "goal": _section(sections["goal"], "What a search over recipes aims at."),
            "search": {
                "type": ["object", "null"],
                "description": "What fulldeck tune may change, where not everything: an instruction's name to true, a "
                "parameter (NAME.PARAMETER, train.KEY) to a list of values or to {low: , high: , log: true}.",
            },
            "order": {
                "enum": ["free", "strict"],
                "default": "free",
                "description": "strict: the order of the list must be the plan's.",
            },
            "trackers": _trackers(sections["trackers"]),
            **{
                entry.recipe_key: parameters[entry.name]
                for entry in entries.values()
                if entry.recipe_key is not None
            },
        },
    }


def _entry_schema(entry: Entry) -> Schema:
    return _section({**entry.parameters, **_FLAGS}, entry.title)


def _workload(workloads: Mapping[str, Any]) -> Schema:
    sections = {name: _section(value["parameters"], value["title"]) for name, value in workloads.items()}
    mappings = [
        section
        | {
            "type": "object",
            "properties": {"kind": {"const": name}, **section["properties"]},
            "required": ["kind", *section["required"]],
        }
        for name, section in sections.items()
    ]
    names = [
        {"const": name, "description": section["description"]}
        for name, section in sections.items()
        if not section["required"]
    ]
    return {"description": "What is worked on.", "oneOf": [*names, *mappings]}


def _trackers(trackers: Mapping[str, Any]) -> Schema:
    names = [{"const": name, "description": value["title"]} for name, value in trackers.items()]
    mappings = {name: _section(value["parameters"], value["title"]) for name, value in trackers.items()}
    one = {
        "type": "object",
        "properties": mappings,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {
        "description": "Where figures are written besides the run folder, as a list.",
        "type": ["array", "null"],
        "items": {"oneOf": [{"oneOf": names}, one]},
    }


def _section(properties: Mapping[str, Schema], description: str) -> Schema:
    """A mapping with `properties`; nothing written after its name is the same as leaving it empty."""
    required = [name for name, schema in properties.items() if "default" not in schema]
    cleaned = {
        name: {key: value for key, value in schema.items() if key not in ("search", "hint")}
        for name, schema in properties.items()
    }
    return {
        "type": "object" if required else ["object", "null"],
        "description": description,
        "properties": cleaned,
        "required": required,
        "additionalProperties": False,
    }
