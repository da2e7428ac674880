"""What the processes of one run say and leave to the one that speaks, and to the launcher that started them."""

from __future__ import annotations

import os
import time

from fulldeck.errors import BadInput, LostRank, SaidElsewhere

LAUNCHED = "FULLDECK_NPROC"
"""In the environment of processes that `--nproc` started: how many."""
LOST = 75
"""Exit code by which those tell their launcher that one of them was lost (EX_TEMPFAIL); others see 1."""
SPEAKING = 0.5
"""Seconds that a silent process stays for: a launcher ends the one that speaks once another has ended."""


def launched() -> int | None:
    """How many processes `--nproc` started, in one of them; None elsewhere."""
    number = os.environ.get(LAUNCHED)
    return None if number is None else int(number)


def exit_code(error: Exception) -> int:
    """Of a process that ends by `error`."""
    if isinstance(error, LostRank):
        return 1 if launched() is None else LOST
    return 2 if isinstance(error, BadInput) else 1


def lost(error: LostRank) -> str:
    """The message; the launcher of `--nproc` goes on by itself."""
    return str(error) if launched() is not None else f"{error}; go on with --resume"


def silent(error: SaidElsewhere) -> int:
    """Wait for the one that speaks; return the exit code."""
    time.sleep(SPEAKING)
    return exit_code(error.reason)
