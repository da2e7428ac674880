"""Writes are whole or not at all: on a full disk, and when the process is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.files import write_json, write_text, write_with
from tests.small_disk import on_small_disk

FULL_DISK = """
import sys
from pathlib import Path
from fulldeck.errors import BadInput
from fulldeck.files import write_bytes
folder = Path(sys.argv[1])
write_bytes(folder / "state", b"old")
try:
    write_bytes(folder / "state", b"x" * 4_000_000)
except BadInput as error:
    print(error)
print((folder / "state").read_bytes(), sorted(path.name for path in folder.iterdir()))
"""

ENDLESS_SAVES = """
import sys
from pathlib import Path
from fulldeck.files import write_bytes
path = Path(sys.argv[1])
number = 0
while True:
    number += 1
    write_bytes(path, str(number % 10).encode() * 300_000)
    if number == 1:
        print("ready", flush=True)
"""


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    python = f"{sys.executable} - {tmp_path} <<'EOF'\n{FULL_DISK}\nEOF"
    result = on_small_disk(tmp_path, "1m", f"exec {python}")
    assert result.stdout.splitlines() == [
        f"cannot write {tmp_path}/state: no space left on device",
        "b'old' ['state']",
    ], result.stderr


def test_killed_at_any_moment_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for delay in (0.0, 0.002, 0.005, 0.011, 0.017):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS_SAVES, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = path.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1


def test_a_failing_writer_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_text(path, "old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_with(path, fails)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot write .*nowhere/result\.json: no such file or directory"):
        write_json(tmp_path / "nowhere" / "result.json", {})
