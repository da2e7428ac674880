"""Whether README.zh-CN.md still says what README.md says.

    python docs/check_translation.py            # exit code 1 and the reasons if it does not
    python docs/check_translation.py --accept   # record that the translation was brought up to date

Compared are the number and levels of headings, the code blocks apart from comments, the tables apart from
words, the links; and the SHA-256 of README.md that the translation was made from, which its last line holds.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORIGINAL = ROOT / "README.md"
TRANSLATION = ROOT / "README.zh-CN.md"
ACCEPT = "python docs/check_translation.py --accept"
_HASH = re.compile(r"<!-- translated from README\.md ([0-9a-f]{64}) -->\s*\Z")
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)]+)\)")
_CELL_CODE = re.compile(r"`[^`]+`|\b\d+\b")
_EACH_OTHER = {ORIGINAL.name, TRANSLATION.name}


def differences(original: str, translation: str) -> list[str]:
    """What makes the translation differ in form, or shows that the original has changed since."""
    found = []
    for what, of in (("headings", headings), ("code blocks", code), ("tables", tables), ("links", links)):
        before, after = Counter(of(original)), Counter(of(translation))
        found += [f"{what}: only in {ORIGINAL.name}: {one}" for one in before - after]
        found += [f"{what}: only in {TRANSLATION.name}: {one}" for one in after - before]
    recorded = _HASH.search(translation)
    if recorded is None or recorded[1] != digest(original):
        found.append(
            f"{ORIGINAL.name} has changed since {TRANSLATION.name} was made from it; translate what changed, "
            f"then run: {ACCEPT}"
        )
    return found


def headings(text: str) -> list[str]:
    """The level of each heading with its place, as `2: ##`."""
    levels = re.findall(r"^(#+) ", _FENCE.sub("", text), re.MULTILINE)
    return [f"{place}: {level}" for place, level in enumerate(levels, 1)]


def code(text: str) -> list[str]:
    """Code blocks without comments; of a block of text only the words that are not prose."""
    found = []
    for info, block in _FENCE.findall(text):
        language = info.split(" ")[0]
        if language == "python":
            found.append(f"{info}\n{_without_comments(block)}")
        elif language == "text":
            found.append(" ".join(re.findall(r"\S*[./_]\S*", block)))
        else:
            lines = (re.sub(r"(^|\s+)#.*", "", line).rstrip() for line in block.splitlines())
            found.append("\n".join([info, *(line for line in lines if line)]))
    return found


def tables(text: str) -> list[str]:
    """Of each row of a table: how many cells, and the numbers and code in them."""
    rows = [line for line in _FENCE.sub("", text).splitlines() if line.startswith("|")]
    return [f"{row.count('|') - 1} cells, {' '.join(_CELL_CODE.findall(row))}" for row in rows]


def links(text: str) -> list[str]:
    """Where links lead, but for those between the two files."""
    return [target for target in _LINK.findall(text) if target not in _EACH_OTHER]


def digest(original: str) -> str:
    """The SHA-256 of the original."""
    return hashlib.sha256(original.encode()).hexdigest()


def accept() -> None:
    """Write the original's hash into the translation."""
    text = _HASH.sub("", TRANSLATION.read_text()).rstrip()
    line = f"<!-- translated from {ORIGINAL.name} {digest(ORIGINAL.read_text())} -->"
    TRANSLATION.write_text(f"{text}\n\n{line}\n")


def _without_comments(source: str) -> str:
    kept = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type != tokenize.COMMENT
    ]
    return "\n".join(line.rstrip() for line in tokenize.untokenize(kept).splitlines() if line.strip(" \\"))


def main(arguments: list[str]) -> int:
    """Check, or with `--accept` record; return the exit code."""
    if "--accept" in arguments:
        accept()
    found = differences(ORIGINAL.read_text(), TRANSLATION.read_text())
    sys.stderr.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
