"""The ways in which fulldeck says no or stops, and the words for the closest valid name.

Every message is one line: what is wrong, where, what to write instead.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class BadInput(ValueError):
    """What the user gave cannot be used. The command line turns it into one line and exit code 2."""

    def __init__(self, message: str, where: str | None = None) -> None:
        super().__init__(f"{message} ({where})" if where else message)
        self.message = message
        self.where = where


class RunFailed(RuntimeError):
    """The input was fine and the work did not succeed. Exit code 1."""


class CannotAct(BadInput):
    """An instruction has nothing to work on in this model, data or machine; the reason is the message.

    Raised from a door. The run stops with the reason, or, with `optional: true` in the recipe, goes on
    without the instruction and names it as skipped.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM ended the training; the message says what was kept. A run goes on with `--resume`."""


class LostRank(RunFailed):
    """One of the processes of a training is lost, so the others stopped. A run goes on with `--resume`."""


class SaidElsewhere(RuntimeError):
    """One of several processes ends for a `reason` that another one tells."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def closest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean X?` for the valid name nearest to `name`, or the empty string."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """What `error` says, in one line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def extra(module: str, name: str) -> ModuleType:
    """Import `module`, which comes with the optional extra `name`.

    Raises BadInput with the exact pip line where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise BadInput(f'{module} is not installed: pip install "fulldeck[{name}]"') from error
