from types import SimpleNamespace
from typing import Any

import pytest

from fulldeck.distributed.two_processes import changes_in_two_processes
from fulldeck.instructions.training.fully_sharded_training import FullyShardedTraining
from fulldeck.recipe.recipe import make_recipe


@pytest.mark.slow
def test_a_process_holds_half_of_a_model_that_two_share() -> None:
    outcome: Any = SimpleNamespace(recipe=make_recipe("digits", train={"epochs": 1}))
    held = changes_in_two_processes(outcome, FullyShardedTraining())["bytes_a_process"]
    assert held["after"] == pytest.approx(held["before"] / 2, rel=0.1)
