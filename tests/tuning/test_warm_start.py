"""What a search begins with: what a diagnosis of this very recipe advises, and what evidence has shown here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulldeck.diagnosis import diagnose as diagnosing
from fulldeck.errors import RunFailed
from fulldeck.evidence import store
from fulldeck.machine import processor
from fulldeck.pipeline.run import situation
from fulldeck.recipe.reader import read_recipe
from fulldeck.tuning import tune as tuning
from fulldeck.tuning.space import Space, search_space
from fulldeck.tuning.warm_start import first_trials, kept_diagnosis

DIGITS = """\
workload: digits
instructions:
  - leakage_safe_splitting
  - amp_optimizer
"""


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "mine.yaml").write_text(DIGITS)
    recipe = read_recipe(tmp_path / "mine.yaml")
    return search_space(recipe, situation(recipe), "train_seconds")


def advice(name: str, predicted: float, **changed: Any) -> dict[str, Any]:
    return {
        "name": name, "parameters": {}, "figure": "step_time", "predicted": predicted, "blocked": None, **changed
    }  # fmt: skip


def evidence(folder: Path, name: str, ratio: float, **changed: Any) -> None:
    store.keep(
        {
            "name": name, "workload": "digits", "verdict": "helps", "metric": "step_time", "ratio": ratio,
            "parameters": {}, "machine": {"processor": processor()}, **changed,
        },
        folder,
    )  # fmt: skip


def test_the_largest_effect_comes_first(space: Space, tmp_path: Path) -> None:
    assert {"train_step_compilation", "lr_scheduler", "early_stopping"} <= {one.key for one in space.choices}
    evidence(tmp_path, "lr_scheduler", 0.5, metric="steps_to_target", parameters={"kind": "one_cycle"})
    evidence(tmp_path, "early_stopping", 1 / 0.9)  # the other way round it is as large
    diagnosis = {"advice": [advice("train_step_compilation", 0.7)]}
    found = first_trials(space, "train_seconds", evidence=tmp_path, diagnosis=diagnosis)
    assert [origin for _, origin in found] == [
        "evidence on digits: lr_scheduler helps steps_to_target",
        "the diagnosis predicts step_time 0.70x with train_step_compilation",
        "evidence on digits: early_stopping helps step_time",
    ]
    first, second = found[0][0], found[1][0]
    assert first["lr_scheduler"] is True
    assert first["lr_scheduler.kind"] == "one_cycle", "with the parameters that were measured"
    assert (
        first.items() >= {key: value for key, value in space.given.items() if key != "lr_scheduler"}.items()
    )
    assert "lr_scheduler.kind" not in second
    assert second["train_step_compilation"] is True
    names = [entry.instruction.card.name for entry in space.build(first).entries]
    assert names == ["leakage_safe_splitting", "amp_optimizer", "lr_scheduler"]


def test_what_promises_nothing_here_is_not_tried_first(space: Space, tmp_path: Path) -> None:
    evidence(tmp_path, "lr_scheduler", 0.5, verdict="no difference", metric="steps_to_target")
    evidence(tmp_path, "early_stopping", 0.5, machine={"processor": "another"})
    diagnosis = {
        "advice": [
            advice("train_step_compilation", 0.7, blocked="there is no compiler"),
            advice("onnx_export", 0.7, figure="latency"),
            advice("amp_optimizer", 0.7),  # it is in the recipe
        ]
    }
    assert first_trials(space, "train_seconds", evidence=tmp_path, diagnosis=diagnosis) == []
    assert first_trials(space, "train_seconds", evidence=tmp_path / "none", diagnosis=None) == []
    (tmp_path / "broken.json").write_text("{")
    assert first_trials(space, "train_seconds", evidence=tmp_path, diagnosis=None) == []


@pytest.mark.slow
def test_a_kept_diagnosis_is_that_of_this_recipe(write: Callable[..., Path], tmp_path: Path) -> None:
    path, folder = write(), tmp_path / "diagnosis"
    recipe = read_recipe(path)
    assert kept_diagnosis(folder, recipe) is None
    result = diagnosing.diagnose(recipe)
    assert result is not None
    diagnosing.keep(result, folder)
    assert kept_diagnosis(folder, recipe) == json.loads((folder / "diagnosis.json").read_bytes())
    aimed = read_recipe(write(more="goal: {minimize: train_seconds}\nsearch: {train.batch_size: [32, 64]}\n"))
    assert kept_diagnosis(folder, aimed) is not None, "what is aimed at is not what was diagnosed"
    other = read_recipe(write(more="  - amp_optimizer\n"))
    assert other.name == recipe.name
    assert kept_diagnosis(folder, other) is None, "another recipe of the same name"
    for changed in ({"kind": "inference"}, {"machine": {"processor": "another"}}, {"recipe_hash": None}):
        diagnosing.keep(result | changed, folder)
        assert kept_diagnosis(folder, recipe) is None
    (folder / "diagnosis.json").write_text("[]")
    assert kept_diagnosis(folder, recipe) is None


def test_a_diagnosis_ends_with_its_time(write: Callable[..., Path]) -> None:
    told: list[str] = []
    with pytest.raises(RunFailed, match="0 s were not enough, of which 0 steps began"):
        diagnosing.diagnose(read_recipe(write()), limit=0.0, tell=told.append)
    assert "timing some steps" not in told


@pytest.mark.slow
def test_a_search_goes_on_where_its_diagnosis_takes_too_long(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, limits, real = [], [], diagnosing.diagnose

    def of_a_slow_recipe(recipe: Any, *, limit: float, tell: Callable[[str], None]) -> Any:
        limits.append(limit)
        return real(recipe, limit=0.0, tell=tell)

    monkeypatch.setattr(diagnosing, "diagnose", of_a_slow_recipe)
    more = "search: {train.batch_size: [32, 64]}\n"
    result = tuning.tune(
        write(more=more),
        goal="minimize train_seconds",
        trials=1,
        budget=120,
        out=tmp_path / "t",
        tell=told.append,
    )
    assert 0 < limits[0] <= 30, "a quarter of the budget, less what has passed"
    assert "diagnosis: left out: 0 s were not enough, of which 0 steps began" in told
    assert result["status"] == "finished"
    assert result["trials"] == 1
