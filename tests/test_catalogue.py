"""The catalogue is fresh, unambiguous, and names what it cannot read."""

import json
from dataclasses import asdict, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import fulldeck
from fulldeck import generate as module
from fulldeck.catalogue import GROUP, built_in, catalogue, describe, with_plugins
from fulldeck.errors import BadInput
from fulldeck.generate import discover, generate, generated


def plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> EntryPoint:
    """A package whose catalogue.json describes one instruction, and the entry point to it."""
    # A name of its own in each test: what has been imported once stays.
    package = f"plugin{len(list(folder.iterdir()))}_of_{folder.name}"
    entry = replace(
        built_in()[0],
        **{
            "name": "some_thing",
            "number": 100,
            "module": f"{package}.some_thing",
            "class_name": "SomeThing",
            **changes,
        },
    )
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("")
    (folder / package / "catalogue.json").write_text(json.dumps({"instructions": [asdict(entry)]}))
    monkeypatch.syspath_prepend(folder)
    return EntryPoint(entry.name, f"{package}.some_thing:SomeThing", GROUP)


def test_the_generated_files_are_fresh() -> None:
    stale = [path for path, text in generated().items() if path.read_text() != text]
    assert not stale, "run: python -m fulldeck.generate"


def test_every_instruction_is_found_by_its_file() -> None:
    files = {
        path.parent.name if path.name == "__init__.py" else path.stem
        for path in (Path(fulldeck.__file__).parent / "instructions").glob("*/*")
        if path.suffix == ".py" or path.is_dir()
    }
    assert {entry.name for entry in built_in()} == files - {"__init__", "__pycache__", *(stages())}


def stages() -> set[str]:
    return {path.name for path in (Path(fulldeck.__file__).parent / "instructions").iterdir()}


def test_a_plugin_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package has no module some_thing: importing it would fail.
    found = with_plugins(built_in(), (plugin(tmp_path, monkeypatch),))
    assert found.broken == {}
    assert [entry.name for entry in found][-1] == "some_thing"
    assert found.find("100").title == built_in()[0].title


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"number": 7}, "number 7 is reserved; plugins take 100 and up"),
        ({"name": "onnx_export"}, "the name onnx_export is taken by fulldeck.instructions.inference"),
        ({"class_name": "Other"}, "ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], reason: str
) -> None:
    point = plugin(tmp_path, monkeypatch, **changes)
    found = with_plugins(built_in(), (point,))
    assert list(found.entries) == [entry.name for entry in built_in()]
    assert reason in found.broken[point.name]


def test_two_plugins_with_one_number_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plugin(tmp_path, monkeypatch)
    second = plugin(tmp_path, monkeypatch, name="some_thing_else")
    found = with_plugins(built_in(), (first, second))
    assert found.broken == {"some_thing_else": "the number 100 is taken by some_thing"}


def test_a_plugin_of_an_older_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = plugin(tmp_path, monkeypatch)
    (file,) = tmp_path.glob("*/catalogue.json")
    content = json.loads(file.read_text())
    del content["instructions"][0]["doors"]
    file.write_text(json.dumps(content))
    assert "lacks doors" in with_plugins(built_in(), (point,)).broken["some_thing"]


def test_a_broken_plugin_is_said_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = EntryPoint("gone", "no_such_package.gone:Gone", GROUP)
    with pytest.raises(BadInput, match='plugin "gone" is broken: ModuleNotFoundError'):
        with_plugins(built_in(), (missing,)).find("gone")


def test_names_and_numbers_find_the_closest() -> None:
    assert catalogue().find("32") is catalogue().find("onnx_export")
    with pytest.raises(
        BadInput, match=r'unknown instruction "onx_export"; did you mean onnx_export \(32\)\?'
    ):
        catalogue().find("onx_export")


def test_a_number_cannot_be_taken_twice() -> None:
    classes = discover()
    with pytest.raises(ValueError, match="is taken twice"):
        generate([*classes, classes[0]])


def test_what_is_read_is_what_was_described() -> None:
    for entry in built_in():
        assert entry == describe(entry.load())
        assert "$ref" not in json.dumps(entry.parameters), "the catalogue keeps no definitions beside them"


def test_check_says_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "generated", lambda: {tmp_path / "catalogue.json": "{}"})
    assert module.main(["--check"]) == 1
    assert "is stale; regenerate it with: python -m fulldeck.generate" in capsys.readouterr().err
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0
