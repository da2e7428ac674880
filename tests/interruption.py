"""Ctrl-C in the middle of a training, for tests of what goes on afterwards."""

from typing import Any

import pytest

from fulldeck.training.loop import TrainingLoop


def interrupt(loop: TrainingLoop, step: int, event: str = "batch_start") -> None:
    """Train `loop` until Ctrl-C, at this `event` of this step."""

    def stop(argument: Any = None) -> None:
        if loop.step == step:
            raise KeyboardInterrupt

    loop.on(event, stop)
    with pytest.raises(KeyboardInterrupt):
        loop.fit()
