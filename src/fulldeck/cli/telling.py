"""One line that says what a long measurement is at: redrawn on a terminal, silent elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Yields the function that takes the words. They go to standard error."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda text: None
        return
    with console.status("starting") as status:
        yield status.update
