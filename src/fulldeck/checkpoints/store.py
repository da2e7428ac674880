"""Where checkpoints lie: a folder, or an object store that fsspec knows.

Both write a file whole or not at all, which is all that the format of `checkpoint_folder` asks for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from fulldeck.errors import BadInput, extra
from fulldeck.files import refusing_disk, sha256, sync_folder, write_bytes, write_with


class Store(Protocol):
    """Files by their relative names (`step-00000012/manifest.json`)."""

    name: str
    """As the user wrote it."""

    def lock(self) -> None:
        """Keep others from writing here. Raises BadInput if another does."""

    def check_lock(self) -> None:
        """Raise BadInput if another has taken over since `lock`."""

    def unlock(self) -> None:
        """Let others write."""

    def folders(self) -> dict[str, list[str]]:
        """The folders, and the names of the files in each."""

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole. Raises BadInput if that fails, as for a full disk."""

    def write_with(self, name: str, writer: Callable[[Path], object]) -> dict[str, Any]:
        """Write whole what `writer` puts into a path; return its `bytes` and `sha256`."""

    def remove(self, folder: str, first: str) -> None:
        """Remove a folder, the file `first` before all else."""


class LocalFolder:
    """A folder of this machine or of a network file system, locked by the process that writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._lock: int | None = None

    def lock(self) -> None:
        """Lock the folder; the lock ends with the process, however it ends."""
        with refusing_disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BadInput(
                f"another training keeps its checkpoints in {self.name}; wait for its end, or name another folder"
            ) from None
        self._lock = descriptor

    def check_lock(self) -> None:
        """Nobody can have taken over."""

    def unlock(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def folders(self) -> dict[str, list[str]]:
        """The folders, and the names of the files in each."""
        if not self.path.is_dir():
            return {}
        return {
            folder.name: [file.name for file in folder.iterdir()]
            for folder in self.path.iterdir()
            if folder.is_dir()
        }

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole."""
        path = self._made(name)
        write_bytes(path, content)
        sync_folder(self.path)

    def write_with(self, name: str, writer: Callable[[Path], object]) -> dict[str, Any]:
        """Write whole what `writer` puts into a path; return its `bytes` and `sha256`."""
        path = self._made(name)
        found: dict[str, Any] = {}

        def write(temporary: Path) -> None:
            writer(temporary)
            found.update(bytes=temporary.stat().st_size, sha256=sha256(temporary))

        write_with(path, write)
        return found

    def remove(self, folder: str, first: str) -> None:
        """Remove a folder, the file `first` before all else."""
        with suppress(OSError):  # what cannot be removed is no reason to stop a training
            (self.path / folder / first).unlink()
        shutil.rmtree(self.path / folder, ignore_errors=True)

    def _made(self, name: str) -> Path:
        path = self.path / name
        with refusing_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


class ObjectStore:
    """An URL that fsspec knows, such as `s3://bucket/run`.

    Object stores have no locks. The training that began last owns the place: it leaves a token, and the one
    before it finds the token changed at its next checkpoint, and stops. No clock is asked.
    """

    def __init__(self, url: str) -> None:
        fsspec = extra("fsspec", "objects")
        self.name = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadInput(f"checkpoints cannot be kept at {url}: {str(error).splitlines()[0]}") from error
        self._token = uuid.uuid4().hex.encode()

    def lock(self) -> None:
        """Take the place over."""
        self.write("owner", self._token)

    def check_lock(self) -> None:
        """Raise BadInput if another has taken over since `lock`."""
        if self.read("owner") != self._token:
            raise BadInput(
                f"another training has begun to keep its checkpoints in {self.name}; this one stops, its last "
                "checkpoint is there"
            )

    def unlock(self) -> None:
        """Nothing to give back: whoever comes takes over."""

    def folders(self) -> dict[str, list[str]]:
        """The folders, and the names of the files in each."""
        found: dict[str, list[str]] = {}
        self._files.invalidate_cache()
        for path in self._files.find(self._root):
            folder, _, name = path.removeprefix(self._root).strip("/").rpartition("/")
            if folder and "/" not in folder:
                found.setdefault(folder, []).append(name)
        return found

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""
        content: bytes = self._files.cat_file(f"{self._root}/{name}")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole."""
        with refusing_disk(f"{self.name}/{name}"):
            self._files.pipe_file(f"{self._root}/{name}", content)

    def write_with(self, name: str, writer: Callable[[Path], object]) -> dict[str, Any]:
        """Let `writer` fill a temporary file on this machine, and send it."""
        with refusing_disk(f"{self.name}/{name}"), tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / "shard"
            writer(temporary)
            self._files.put_file(str(temporary), f"{self._root}/{name}")
            return {"bytes": temporary.stat().st_size, "sha256": sha256(temporary)}

    def remove(self, folder: str, first: str) -> None:
        """Remove a folder, the file `first` before all else."""
        names = self.folders().get(folder, [])
        for name in sorted(names, key=lambda name: name != first):
            self._files.rm_file(f"{self._root}/{folder}/{name}")


def store_at(where: Path | str) -> Store:
    """The store that a path or an URL names. Raises BadInput for an URL that fsspec cannot open."""
    text = str(where)
    if "://" not in text:
        return LocalFolder(Path(where))
    return (
        LocalFolder(Path(text.removeprefix("file://"))) if text.startswith("file://") else ObjectStore(text)
    )
