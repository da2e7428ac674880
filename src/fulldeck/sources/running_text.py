"""Running text: a text file, a folder of them, or a column of texts; and what of it is held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fulldeck.data import SPLITS
from fulldeck.errors import BadInput
from fulldeck.sources.column_file import ColumnFile, array, column_files, existing
from fulldeck.sources.given_split import looks_like_split, split_places

PLAIN = (".txt", ".md")
"""Suffixes of the files of a folder that are read; a single file may have any."""
BETWEEN = "\n\n"
"""What is put between two texts."""
COLUMNS = ("text", "sentence", "content", "document")
"""Names by which a column of texts is recognised."""

Parts = Mapping[str, str]
"""Text by split; with train alone, nothing has been held out yet."""


def read_running_text(path: str, column: str | None, notes: list[str], *, split: str | None = None) -> Parts:
    """The text at `path`: a UTF-8 file, a folder of .txt and .md files, or CSV or parquet with a text `column`.

    Texts of a column come in the splits that the column `split` (left out: one of that name that says
    train) or the names of the files say. Raises BadInput if there is none, or if a file is not UTF-8.
    """
    there = existing(path)
    if column_files(there):
        return _column(ColumnFile(path), column, split, notes)
    if not there.is_dir():
        return {"train": _content(there)}
    files = sorted(file for file in there.rglob("*") if file.suffix.lower() in PLAIN and file.is_file())
    if not files:
        raise BadInput(f"{path} has no .txt, .md, .csv or .parquet file")
    notes.append(f"text: {len(files):,} files of {path}, in the order of their names")
    return {"train": BETWEEN.join(map(_content, files))}


def hold_out(parts: Parts, validation: float, test: float, notes: list[str]) -> Parts:
    """Cut what is not given off the end of train: `test` is its last share, `validation` the one before.

    No block of tokens is drawn at random: blocks that lie side by side share words, names and copied
    lines, so that a test among the training blocks would tell too much.
    """
    missing = {
        name: share for name, share in (("test", test), ("validation", validation)) if name not in parts
    }
    train, cut = parts["train"], {}
    whole = len(train)
    for name, share in missing.items():
        end = len(train) - round(share * whole)
        # A line stays whole, where there are lines.
        line = train.rfind("\n", max(0, end - 1000), end) + 1
        train, cut[name] = train[: line or end], train[line or end :]
    if cut:
        said = ", ".join(f"{name} the last {len(text):,}" for name, text in reversed(cut.items()))
        notes.append(
            f"split by position, not at random: train the first {len(train):,} characters, then {said}"
        )
    texts = {"train": train, **{name: text for name, text in parts.items() if name != "train"}, **cut}
    return {name: texts[name] for name in SPLITS}


def _column(file: ColumnFile, column: str | None, split: str | None, notes: list[str]) -> Parts:
    chosen = file.named(column) if column is not None else file.usual("text", COLUMNS, notes)
    if chosen is None:
        candidates = [name for name in file.types if file.holds_texts(name)]
        if len(candidates) != 1:
            raise BadInput(f"{file.path}: name the column of texts with text:; it has {file.listed}")
        chosen = candidates[0]
    if not file.holds_texts(chosen):
        raise BadInput(f"{file.where(chosen)} holds no texts")
    places = None
    if split is not None:
        places = split_places(array(file.read([file.named(split)])[split]), file.where(split))
    elif "split" in file.types and looks_like_split(values := array(file.read(["split"])["split"])):
        places = split_places(values, file.where("split"))
    texts = array(file.read([chosen])[chosen])
    if not any(texts):
        raise BadInput(f"{file.where(chosen)} has no texts")
    if places is None:
        return {"train": _joined(texts)}
    notes.append(
        f"split as given: {', '.join(f'{name} {len(rows):,} texts' for name, rows in places.items())}"
    )
    return {name: _joined(texts[rows]) for name, rows in places.items()}


def _joined(texts: Iterable[str | None]) -> str:
    return BETWEEN.join(text for text in texts if text)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start:,}): iconv -t utf-8 converts it") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
