"""`.npz` files: arrays by name, without pickle and without surprises in size."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.errors import BadInput, closest

MAX_BYTES = 8 * 2**30
"""Most bytes that a file may unpack to; a few kilobytes can unpack to far more."""

FAILURES = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, NotImplementedError, RuntimeError)
"""What reading a damaged file raises."""


class ArrayFile:
    """The arrays of an `.npz` file, read when asked for.

    Raises BadInput if it is not one, if any array needs pickle, and if the arrays are larger than
    MAX_BYTES together or than the file's own directory says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._check(archive)
            with np.load(path, allow_pickle=False) as arrays:
                self.names: tuple[str, ...] = tuple(arrays.files)
        except BadInput:
            raise
        except FAILURES as error:
            raise BadInput(f"{path} is not a readable .npz file: {_first_line(error)}") from error

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """An array. Raises BadInput with the closest name if it is absent."""
        if name not in self.names:
            near = closest(name, self.names) or ";"
            raise BadInput(f'{self.path} has no array "{name}"{near} it has {", ".join(self.names)}')
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                array: npt.NDArray[Any] = arrays[name]
        except FAILURES as error:
            raise BadInput(f'array "{name}" of {self.path} cannot be read: {_first_line(error)}') from error
        return array

    def _check(self, archive: zipfile.ZipFile) -> None:
        total = sum(member.file_size for member in archive.infolist())
        if total > MAX_BYTES:
            raise BadInput(f"{self.path} unpacks to {total:,} bytes; at most {MAX_BYTES:,} are read")
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(stream)
                name = member.filename.removesuffix(".npy")
                if dtype.hasobject:
                    raise BadInput(f'array "{name}" of {self.path} holds pickled objects, which are not read')
                # NumPy allocates what the header says before it reads what there is.
                if math.prod(shape) * dtype.itemsize > member.file_size:
                    raise BadInput(f'array "{name}" of {self.path} is larger than its file')


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
