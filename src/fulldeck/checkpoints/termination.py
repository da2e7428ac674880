"""SIGTERM as a wish to stop soon: what schedulers send some time before they kill."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from fulldeck.errors import Terminated


class Termination:
    """Within it, SIGTERM sets `asked`; after `grace` more seconds, or a second SIGTERM, it raises Terminated.

    Outside of the main thread, where signals cannot be heard, it does nothing.
    """

    def __init__(self, grace: float = 25.0) -> None:
        self.grace = grace
        self.asked = False
        self._before: Any = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        self.asked = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise Terminated(f"SIGTERM: the step and its checkpoint did not end within {self.grace:g} s")
        self.asked = True
        main = threading.get_ident()
        self._timer = threading.Timer(self.grace, signal.pthread_kill, (main, signal.SIGTERM))
        self._timer.daemon = True
        self._timer.start()
