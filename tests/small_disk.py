"""A disk that is soon full."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def on_small_disk(folder: Path, size: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command that sees a disk of `size` (`1m`) at `folder`; the test is skipped where none can be had."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no mount namespace to be had here: a small disk cannot be made")
    mounted = f"mount -t tmpfs -o size={size} tmpfs {folder} && {command}"
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted], capture_output=True, text=True, check=False
    )
