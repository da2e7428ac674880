"""Every code block of README, documentation and docstrings does what it shows."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import snippets
from snippets import Snippet
from typer.main import get_command

import fulldeck
from fulldeck.catalogue import built_in
from fulldeck.cli import COMMANDS, app, main

ROOT = snippets.ROOT
PAGES = {page: found for page, text in snippets.pages().items() if (found := snippets.blocks(page, text))}
SERVER = "http://127.0.0.1:8000"
"""How the documentation writes the server's address; the one of the test takes a free port."""
SHELL_WORDS = ("cd", "git", "ls", "python3", ".", "export", "srun", "fulldeck", "openssl")
"""Commands of the shell that say nothing about fulldeck."""


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "110")
    before = set(sys.modules)
    reader = Reader()
    yield reader
    reader.close()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_shows(name: str, reader: Reader) -> None:
    for snippet in PAGES[name]:
        reader.follow(snippet)
    assert reader.error is None, "the page does not show the error that it provokes"


def test_a_block_in_no_category_is_refused() -> None:
    for text in ("```\nls\n```\n", "```rust\nfn main() {}\n```\n", "```csv\na,b\n```\n"):
        with pytest.raises(ValueError, match=r"page:1: a block of"):
            _ = snippets.blocks("page", text)[0].how


def test_commands_within_sentences_exist() -> None:
    for name, text in snippets.pages().items():
        for command in re.findall(r"`fulldeck ([a-z]+)[^`]*`", text):
            assert command in COMMANDS, f"{name}: fulldeck {command}"


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    missing = [name for name in COMMANDS if f"`{name}`" not in text]
    assert not missing, f"name them under Commands: {', '.join(missing)}"


def test_examples_in_docstrings_are_executed() -> None:
    """Those of instructions by the contract suite; there are no others but the suite's own search for them."""
    elsewhere = set(snippets.docstring_examples()) - {
        f"src/{entry.module.replace('.', '/')}{suffix}"
        for entry in built_in()
        for suffix in (".py", "/__init__.py")
    }
    for file in elsewhere:
        name = file.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        __import__(name)
        assert doctest.testmod(sys.modules[name], optionflags=doctest.ELLIPSIS).failed == 0


class Reader:
    """Somebody who follows a page in an empty folder, block by block."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.error: str | None = None
        self.server: subprocess.Popen[str] | None = None
        self.url = SERVER

    def follow(self, snippet: Snippet) -> None:
        how = snippet.how
        where = f"{snippet.page}:{snippet.line}"
        text = snippet.text.replace(SERVER, self.url)
        if snippet.title is not None:
            path = Path(snippet.title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if self.error is not None:
            assert snippet.language == "text", f"{where}: expected the error's text"
            assert same(self.error, snippet.text), f"{where}: {self.error}"
            self.error = None
        elif snippet.language == "text":
            assert not re.search(r"^\$? ?(fulldeck|python|pip|make|curl) ", text, re.MULTILINE), where
        elif how == "parsed":
            assert snippet.value, f"{where}: say why it is only parsed"
            self._parse(snippet, where)
        elif snippet.language == "python":
            self._python(snippet, text, where)
        elif snippet.language == "pycon":
            self._doctest(text, where)
        elif snippet.language == "yaml" and how == "planned":
            recipe = Path(snippet.title or "recipe.yaml")
            recipe.write_text(text)
            assert fulldeck.plan(recipe).steps is not None
        elif snippet.language == "sh":
            for command in commands(text):
                self._command(command, snippet, where)
        elif snippet.language in ("json", "toml"):
            (json if snippet.language == "json" else tomllib).loads(text)

    def close(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(20)

    def _python(self, snippet: Snippet, text: str, where: str) -> None:
        code = compile(text, where, "exec")
        if snippet.mark != "wrong on purpose":
            exec(code, self.names)
            return
        with pytest.raises(Exception) as raised:  # noqa: PT011  the text that follows is compared
            exec(code, self.names)
        self.error = traceback.format_exception_only(raised.value)[0]

    def _doctest(self, text: str, where: str) -> None:
        test = doctest.DocTestParser().get_doctest(text, {}, where, where, 0)
        said: list[str] = []
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
        assert not said, "".join(said)

    def _parse(self, snippet: Snippet, where: str) -> None:
        if snippet.language == "python":
            compile(snippet.text, where, "exec")
        elif snippet.language == "sh":
            for command in commands(snippet.text):
                if command[0] == "fulldeck":
                    parse(command[1:])
                else:
                    check(command, where)

    def _command(self, command: list[str], snippet: Snippet, where: str) -> None:
        if command[0] == "curl" and self.server is not None:
            answer = subprocess.run(["curl", "-sS", *command[1:]], capture_output=True, text=True, check=True)
            assert "error" not in json.loads(answer.stdout), f"{where}: {answer.stdout}"
        elif command[0] != "fulldeck":
            check(command, where)
        elif snippet.mark == "in the background":
            self._serve(command)
        else:
            words = command[1:] + (shlex.split(snippet.value) if snippet.mark == "tested with" else [])
            parse(words)
            code, said = call(words)
            if snippet.mark == "wrong on purpose":
                assert code in (1, 2), where
                self.error = said
            else:
                assert code == 0, f"{where}: {said}"

    def _serve(self, command: list[str]) -> None:
        parse(command[1:])
        words = [sys.executable, "-m", *command, "--port", "0", "--json"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.server.stdout is not None
        self.url = json.loads(self.server.stdout.readline())["url"]


def same(said: str, shown: str) -> bool:
    """Whether an error is as the page shows it; `...` stands for what differs from machine to machine."""
    return re.fullmatch(".+".join(map(re.escape, shown.split("..."))), said) is not None


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, without comments; a backslash goes on in the next line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def call(words: list[str]) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it wrote to standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = main(words)
    return code, errors.getvalue()


def parse(words: list[str]) -> None:
    """Let typer parse the arguments of a command; it raises for what it does not know."""
    group: Any = get_command(app)
    top = group.make_context("fulldeck", list(words), resilient_parsing=True)
    if words[0].startswith("-"):
        assert words[0] in {option for parameter in group.params for option in parameter.opts} | {"--help"}
        return
    group.commands[words[0]].make_context(
        words[0], list(words[1:]), parent=top, resilient_parsing="--help" in words
    )


def check(command: list[str], where: str) -> None:
    """Of another program's command, check that what it names of fulldeck exists."""
    if re.match(r"[a-z_]+=", command[0]):  # a variable of the shell
        return
    name, rest = Path(command[0]).name or command[0], command[1:]
    if name == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets, where
    elif name == "curl":
        path = next(re.sub(r"^https?://[^/]+", "", word) for word in rest if word.startswith("http"))
        assert any(re.fullmatch(route, path) for route in routes()), f"{where}: no route {path}"
    elif name == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for word in rest:
            for extra in re.findall(r"^fulldeck\[(.+)\]", word):
                assert set(extra.split(",")) <= set(project["optional-dependencies"]), where
    elif name == "python":
        if rest[0] == "-m":
            assert shutil.which(rest[1]) or (ROOT / "src" / f"{rest[1].replace('.', '/')}.py").is_file(), (
                where
            )
        else:
            assert (ROOT / rest[0]).is_file(), where
    elif name == "pytest":
        assert all(
            (ROOT / word).exists() or Path(word).exists() for word in rest if not word.startswith("-")
        ), where
    else:
        assert name in SHELL_WORDS, f"{where}: what is {name}?"


def routes() -> list[str]:
    """Patterns of the server's paths, from the table of routes in the source."""
    source = (ROOT / "src/fulldeck/serving/app.py").read_text()
    fixed = re.findall(r'"(/[a-z0-9/]+)": Route\(', source)
    of_model = re.findall(r'f"\{base\}(/[a-z]+)"', source)
    assert fixed
    assert of_model
    fixed.append("/v2/repository/(index|models/[^/]+/(un)?load)")
    return [*fixed, *(f"/v2/models/[^/]+(/versions/1)?{path}" for path in ("", *of_model))]
