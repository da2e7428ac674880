import contextlib
import io
import zipfile

import numpy as np
import pytest

from fulldeck.errors import BadInput
from fulldeck.sources.array_file import ArrayFile


def test_reads_arrays_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.array(["a", "b"]))
    file = ArrayFile(tmp_path / "a.npz")
    assert file.names == ("x", "y")
    assert file["x"].tolist() == [0, 1, 2]
    with pytest.raises(BadInput, match=r'no array "z"; it has x, y'):
        file["z"]


def test_a_header_that_claims_more_than_there_is_is_refused_before_memory_is_taken(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue() + b"\0" * 16)
    with pytest.raises(BadInput, match=r'array "x" of .* is larger than its file'):
        ArrayFile(tmp_path / "a.npz")


def test_damaged_files_raise_nothing_but_bad_input(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(1000))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(BadInput):  # some damage is harmless
            ArrayFile(path)["x"]
