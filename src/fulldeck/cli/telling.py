"""One line that says what a long measurement is at: redrawn on a terminal, elsewhere written now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

LINE_SECONDS = 10.0
"""Between two lines where nothing can be redrawn; what is over sooner says nothing."""


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Yields the function that takes the words. They go to standard error."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _now_and_then(console)
        return
    with console.status("starting") as status:
        yield status.update


def _now_and_then(console: Console) -> Callable[[str], None]:
    told = time.monotonic()

    def tell(text: str) -> None:
        nonlocal told
        if time.monotonic() - told >= LINE_SECONDS:
            console.print(text, soft_wrap=True)
            told = time.monotonic()

    return tell
