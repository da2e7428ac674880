"""Files that matter are written whole or not at all, and are known by their hash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fulldeck.errors import BadInput

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(?P<kind>part|old)")
"""The names that `atomic_path` and `atomic_folder` give to what is not finished."""


@contextmanager
def atomic_path(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and move it into place.

    After a crash at any moment `path` holds the old content or the new, never a part. Raises BadInput
    where the disk is full or the folder cannot be written; the old content is then intact. `mode` is who may read it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    After a crash `path` is whole: the new folder or the old one; or, in the instant between two renames,
    neither, and the old one lies beside it. What is in the folder is to be written with the functions of
    this module, which flush it to disk.
    """
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically. Raises BadInput if the disk is full or read-only."""
    with refusing_disk(path), atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2, default=plain) + "\n")


def write_with(path: Path, writer: Callable[[Path], object]) -> None:
    """Let `writer` fill a temporary file that then takes the place of `path`."""
    with refusing_disk(path), atomic_path(path) as temporary:
        writer(temporary)


@contextmanager
def refusing_disk(path: Path | str) -> Iterator[None]:
    """Turn what a full or read-only disk raises (OSError, or RuntimeError from a library) into BadInput."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    except Exception as error:
        # Libraries written in C++ or Rust wrap ENOSPC, or that a quota ends, in an exception of their own.
        if "No space left" in str(error) or "StorageFull" in str(error) or "os error 28" in str(error):
            raise BadInput(f"cannot write {path}: no space left on device") from error
        if found := re.search(r"os error (\d+)", str(error)):
            raise BadInput(f"cannot write {path}: {os.strerror(int(found[1])).lower()}") from error
        raise


def tidy(folder: Path) -> None:
    """Remove below `folder` what a killed process left half written; nobody may be writing there.

    A folder that was about to be replaced takes its place again.
    """
    for path in list(folder.rglob(".*")):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or not path.exists():
            continue
        target = path.with_name(found["name"])
        if found["kind"] == "old" and not target.exists():
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """What JSON takes in place of a NumPy scalar, a path, a set or a tuple."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def sync_folder(folder: Path) -> None:
    """Flush to disk which files `folder` has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
