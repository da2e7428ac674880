"""The programs that monitoring is tried on, where they are; a loud skip where they are not."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path

import pytest


def program(*names: str) -> str:
    """The path of the first of `names` that is there; the test is skipped, and says so, where none is."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    missing = f"{names[0]} was NOT tried: it is not here; make test-services gets it"
    warnings.warn(missing, stacklevel=1)
    pytest.skip(missing)


def said(*command: str | Path, fails: bool = False) -> str:
    """What a command writes; it must succeed, or fail where it `fails`."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout
