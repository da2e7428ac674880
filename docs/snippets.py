"""The code blocks of README, documentation and docstrings, and how each of them is tested.

    python docs/snippets.py    # how many there are, by page and by what the tests do with them

What is done with a block follows from its language, and from an HTML comment in the line before it:

- `python`, `pycon`: executed, each page in one namespace; with `title="NAME"` also written to that file.
- `yaml`: a recipe, which is planned; with a title also written to that file.
- `sh`: each `fulldeck` command is executed; of others it is checked that what they name exists.
- `csv`, `json`, `toml`: a file to write, which needs a title.
- `text`: what something prints; it holds no commands. After a block that is wrong on purpose it is
  compared with the error.

`<!-- parsed only: REASON -->` executes nothing, `<!-- tested with: --set KEY=VALUE ... -->` makes a command
small, `<!-- in the background -->` is for a server, `<!-- wrong on purpose -->` expects an error.
"""

from __future__ import annotations

import ast
import doctest
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import generate_pages

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
HOW = {
    "python": "executed",
    "pycon": "executed",
    "yaml": "planned",
    "sh": "executed",
    "csv": "file",
    "json": "file",
    "toml": "file",
    "text": "output",
}
MARKS = ("parsed only", "tested with", "in the background", "wrong on purpose")
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(rf"<!-- ({'|'.join(MARKS)})(?:: (.+?))? -->\s*$")


@dataclass(frozen=True)
class Snippet:
    """One code block. `mark` is the comment before it, with its `value` after the colon."""

    page: str
    line: int
    language: str
    text: str
    title: str | None = None
    mark: str | None = None
    value: str = ""

    @property
    def how(self) -> str:
        """What the tests do with it. Raises ValueError for a block that is in no category."""
        if self.language not in HOW:
            raise ValueError(f"{self.page}:{self.line}: a block of {self.language or 'no language'}")
        how = HOW[self.language]
        if how == "file" and self.title is None:
            raise ValueError(f"{self.page}:{self.line}: a block of {self.language} needs a title")
        if self.mark == "parsed only":
            return "parsed"
        if self.mark == "wrong on purpose" and how == "planned":
            return "executed"
        return how


def blocks(page: str, markdown: str) -> list[Snippet]:
    """The code blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(markdown):
        language, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        mark = _MARK.search(markdown[: match.start()])
        indent = len(match["indent"])
        found.append(
            Snippet(
                page,
                markdown.count("\n", 0, match.start()) + 1,
                language,
                "".join(line[indent:] or "\n" for line in match["text"].splitlines(keepends=True)),
                title[1] if title else None,
                mark[1] if mark else None,
                (mark[2] or "") if mark else "",
            )
        )
    return found


def pages() -> dict[str, str]:
    """README and every page of the documentation, hand-written and generated: name to Markdown."""
    docs = ROOT / "docs"
    written = {
        str(path.relative_to(ROOT)): generate_pages.complete(path.read_text()) for path in docs.rglob("*.md")
    }
    made = {f"docs/{name}": text for name, text in generate_pages.pages().items()}
    return {"README.md": (ROOT / "README.md").read_text()} | dict(sorted((written | made).items()))


def docstring_examples() -> dict[str, list[doctest.Example]]:
    """The `>>>` examples in docstrings of the source, by file."""
    parser, found = doctest.DocTestParser(), {}
    for path in sorted(SOURCE.rglob("*.py")):
        nodes = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        ]
        examples = [one for node in nodes for one in parser.get_examples(ast.get_docstring(node) or "")]
        if examples:
            found[str(path.relative_to(ROOT))] = examples
    return found


def main() -> None:
    """Print how many blocks there are."""
    total: Counter[str] = Counter()
    for page, markdown in pages().items():
        count = Counter(snippet.how for snippet in blocks(page, markdown))
        total += count
        if count:
            sys.stdout.write(f"{page}: {', '.join(f'{n} {how}' for how, n in sorted(count.items()))}\n")
    examples = docstring_examples()
    statements = sum(map(len, examples.values()))
    sys.stdout.write(f"docstrings: {statements} statements executed, in {len(examples)} files\n")
    sys.stdout.write(f"total: {', '.join(f'{n} {how}' for how, n in sorted(total.items()))}\n")


if __name__ == "__main__":
    main()
