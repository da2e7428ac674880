"""What a run will need: told by the run itself, stopped early, that leaves nothing behind."""

import tempfile
from pathlib import Path

import pytest

import fulldeck as fd
from fulldeck.preview.estimate import TIMED, estimate
from fulldeck.recipe.recipe import make_recipe


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_few_steps_tell_the_whole(temporary: Path) -> None:
    recipe = make_recipe("digits", [fd.WeightAveraging()], train={"epochs": 3, "threads": 1})
    found = estimate(recipe)
    assert found.timed == TIMED
    assert found.steps == 3 * found.steps_per_epoch
    assert found.seconds > found.training_seconds > found.steps * found.step_seconds > 0
    assert found.parameters == 308_074
    assert found.checkpoint_bytes > 3 * found.model_bytes > 0, "weights, their average, and two moments"
    assert found.memory_bytes > found.checkpoint_bytes
    assert found.data.validation is not None
    assert not list(temporary.glob("fulldeck-*")), "nothing is kept"


@pytest.mark.parametrize("batch_size", [200, 1000])
def test_epochs_of_two_steps_and_of_one(batch_size: int) -> None:
    found = estimate(
        make_recipe("breast_cancer", train={"epochs": 2, "batch_size": batch_size, "threads": 1})
    )
    assert found.timed >= 1
    assert found.step_seconds > 0
    assert found.steps == 2 * found.steps_per_epoch
