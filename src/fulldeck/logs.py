"""Logging: loggers below `fulldeck`, silent until somebody listens; and how the command line listens.

`fulldeck.run` tells what a run does, `fulldeck.training` how its training goes, `fulldeck.serving` what
goes wrong in a server. Records carry fields (`epoch`, `step`, `loss`, ...) as attributes.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from fulldeck.files import plain

tree = logging.getLogger("fulldeck")
tree.addHandler(logging.NullHandler())

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line: time (UTC), level, logger, message, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=plain)


@contextmanager
def on_standard_error(*, as_json: bool, quiet: bool) -> Iterator[None]:
    """Within it, what is logged anywhere and what libraries warn of goes to standard error.

    As text: warnings of fulldeck and errors of libraries. As JSON lines: also what fulldeck does, and
    what libraries warn of. `quiet`: errors only.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(name)s: %(message)s"))
    own = logging.ERROR if quiet else logging.INFO if as_json else logging.WARNING
    libraries = logging.WARNING if as_json and not quiet else logging.ERROR
    handler.addFilter(
        lambda record: record.levelno >= (own if record.name.startswith("fulldeck") else libraries)
    )
    before = tree.level
    tree.setLevel(own)
    logging.root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.root.removeHandler(handler)
        tree.setLevel(before)


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Within it no record up to `level` and no warning gets out, whoever writes it."""
    disabled = logging.root.manager.disable
    logging.disable(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def collect() -> None:
    """Let loggers that write to the screen by themselves, as torch's do, hand their records up instead.

    To be called after the libraries have been imported; a user who has set TORCH_LOGS wants to see them.
    """
    if "TORCH_LOGS" in os.environ:
        return
    for logger in list(logging.root.manager.loggerDict.values()):
        if not isinstance(logger, logging.Logger):
            continue
        for handler in [one for one in logger.handlers if type(one) is logging.StreamHandler]:
            logger.removeHandler(handler)
            logger.propagate = True
