"""YAML with the line of every value, and with caps that are checked before anything is built.

A few hundred bytes of YAML can describe a billion values (aliases of aliases) or nest until the parser's
stack ends. The stream of parse events is counted first; nothing is expanded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fulldeck.errors import BadInput

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
MAX_VALUES = 5_000

Place = tuple[str | int, ...]
Lines = dict[Place, int]
"""Where a value stands: its path (keys and list places) to its line, counted from 1."""


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """The value in a YAML file and the line of each part of it.

    Raises BadInput with file and line: not YAML, too large, too deep, too many values, a key twice.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(content) > MAX_BYTES:
        raise BadInput(f"{path} has {len(content):,} bytes; at most {MAX_BYTES:,} are read as YAML")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str = "<text>") -> tuple[Any, Lines]:
    """As `read_yaml`, from a text; `name` stands in errors."""
    yaml = YAML(typ="safe", pure=True)
    lines: Lines = {}
    try:
        _check_caps(yaml, text, name)
        node = yaml.compose(text)
        value = None if node is None else _build(yaml, node, (), lines, name)
    except MarkedYAMLError as error:
        problem, line = _explained(error, text.splitlines())
        raise BadInput(f"not valid YAML: {problem}", f"{name}:{line + 1}") from None
    except YAMLError as error:
        raise BadInput(f"not valid YAML: {error}", name) from None
    return value, lines


def _explained(error: MarkedYAMLError, lines: list[str]) -> tuple[str, int]:
    """The parser's problem in words that say what to write, and the line (from 0) that is to be changed."""
    problem = str(error.problem)
    at = min(error.problem_mark.line if error.problem_mark else 0, len(lines) - 1)
    began = error.context_mark.line if error.context_mark else at
    if "expected ':'" in problem:
        return f'a colon is missing after "{lines[began].strip()}"', began
    if "expected ',' or" in problem:
        return f'the bracket that opens in "{lines[began].strip()}" is not closed', began
    if "end of stream" in problem:
        return f'the quotation mark that opens in "{lines[began].strip()}" is not closed', began
    found = f'"{lines[at].strip()}"'
    if "'\\t'" in problem:
        return f"{found} stands after a tab; indent with spaces", at
    above = next((line for line in reversed(lines[:at]) if line.strip() and line.lstrip()[0] != "#"), "")
    deep, before = _indent(lines[at]), _indent(above)
    if ("not allowed here" in problem or "<block end>" in problem) and above and deep != before:
        spaces = f"{found} is indented by {deep} and the line above by {before}; "
        # The parser took the line for a part of the value above.
        if "not allowed here" in problem and ":" not in above:
            return f"{spaces}end the line above with a colon, or indent both alike", at
        return f"{spaces}what belongs together is indented alike", at
    if "not allowed here" in problem:
        return f'{found} holds two colons; put a value that has ": " in quotation marks', at
    return f"{problem}: {found}", at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _check_caps(yaml: YAML, text: str, name: str) -> None:
    sizes: dict[str, int] = {}
    # One open container each: its anchor and how many values it holds, aliases expanded.
    open_containers: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text):
        where = f"{name}:{event.start_mark.line + 1}"
        if isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            open_containers.append((event.anchor, 1))
            if len(open_containers) - 1 > MAX_DEPTH:
                raise BadInput(f"nested more than {MAX_DEPTH} levels deep", where)
            continue
        if isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            anchor, size = open_containers.pop()
        elif isinstance(event, AliasEvent):
            if event.anchor not in sizes:
                raise BadInput(f"*{event.anchor} refers to itself or to nothing before it", where)
            anchor, size = None, sizes[event.anchor]
        elif isinstance(event, ScalarEvent):
            anchor, size = event.anchor, 1
        else:
            assert not isinstance(event, NodeEvent)
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, so_far = open_containers[-1]
        open_containers[-1] = (outer, so_far + size)
        if so_far + size > MAX_VALUES:
            raise BadInput(f"more than {MAX_VALUES:,} values, with aliases written out", where)


def _build(yaml: YAML, node: Node, path: Place, lines: Lines, name: str) -> Any:
    lines[path] = node.start_mark.line + 1
    plain_tag = "map" if isinstance(node, MappingNode) else "seq"
    if not isinstance(node, ScalarNode) and str(node.tag) != f"tag:yaml.org,2002:{plain_tag}":
        raise BadInput(
            f"the tag {node.tag} is not taken; write plain values", f"{name}:{node.start_mark.line + 1}"
        )
    if isinstance(node, MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = f"{name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, ScalarNode):
                raise BadInput("a key must be a plain text", where)
            key = str(key_node.value)
            if key in result:
                raise BadInput(f'"{key}" is given twice', where)
            result[key] = _build(yaml, value_node, (*path, key), lines, name)
            lines[(*path, key)] = key_node.start_mark.line + 1
        return result
    if isinstance(node, SequenceNode):
        return [_build(yaml, item, (*path, place), lines, name) for place, item in enumerate(node.value)]
    return yaml.constructor.construct_object(node, deep=True)
