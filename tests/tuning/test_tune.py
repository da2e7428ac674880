"""Searches on real processes: the answer, and every way in which one may be disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fulldeck.errors import BadInput, RunFailed
from fulldeck.recipe.reader import read_recipe
from fulldeck.tuning.tune import tune
from tests.small_disk import on_small_disk

RATES = "search: {train.learning_rate: {low: 1.0e-5, high: 1.0e-1, log: true}, train.batch_size: [32, 64]}\n"
BATCHES = "search: {train.batch_size: [32, 64, 128, 256], train.weight_decay: [0.0, 0.01, 0.1]}\n"
FULL_DISK = """
import subprocess, sys, time
from pathlib import Path
disk, recipe = Path(sys.argv[1]), sys.argv[2]
filler = disk / "filler"

def tune(*more):
    return subprocess.Popen(
        [sys.executable, "-m", "fulldeck", "tune", recipe, "--goal", "minimize validation_loss", "--trials", "5",
         "--budget", "200", "--out", str(disk / "t"), *more],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )

def study():
    return "".join(path.read_text() for path in disk.glob("t/*-mine/study.jsonl"))

process = tune()
while '"finished"' not in study() and process.poll() is None:
    time.sleep(0.02)
with filler.open("wb", buffering=0) as stream:
    try:
        while stream.write(bytes(1000)):
            pass
    except OSError:
        pass
error = process.communicate()[1]
print(process.returncode, "Traceback" in error, "no space left on device" in error.lower())
filler.unlink()
before = study()
process = tune("--resume")
error = process.communicate()[1]
print(error, file=sys.stderr)
print(process.returncode, study().startswith(before[: before.rfind("\\n") + 1]), study().count('"trial":'))
"""


def lines(folder: Path, word: str) -> list[dict[str, object]]:
    study = next(iter(sorted(folder.glob("*-mine")))) / "study.jsonl"
    return [line for text in study.read_text().splitlines() if word in (line := json.loads(text))]


def test_the_answer_is_a_recipe_that_runs(write: Callable[..., Path], tmp_path: Path) -> None:
    told: list[str] = []
    conditions = ("loss <= 1000",)
    result = tune(
        read_recipe(write(more=RATES, epochs=40), ["train.learning_rate=0.00002"]),
        goal="minimize validation_loss",
        subject_to=conditions,
        trials=15,
        budget=120,
        out=tmp_path / "t",
        tell=told.append,
    )
    assert result["status"] == "finished"
    assert result["satisfied"]
    assert result["trials"] == 15
    states = [one["state"] for one in result["tried"]]
    assert states.count("stopped") >= 2, "trainings stop early"
    assert states.count("finished") >= 4
    best = result["best"]
    assert best["trial"] != 0, "the recipe's learning rate is far too small"
    assert len(best["seeds"]) >= 3
    low, high = best["intervals"]["validation_loss"]
    assert low < best["metrics"]["validation_loss"] < high
    assert best["gain"]["interval"][1] < 1
    assert {one["trial"] for one in result["finalists"]} >= {0, best["trial"]}
    assert best["trial"] in [one["trial"] for one in result["pareto"]] or len(result["pareto"]) > 0
    assert next(iter(result["importances"])) == "train.learning_rate"
    text = Path(best["recipe"]).read_text()
    assert "# was 2e-05" in text
    assert all("#" in line for line in text.splitlines()), "a comment on each line"
    assert read_recipe(Path(best["recipe"])).train.learning_rate != 0.00002
    page = (Path(result["run"]) / "tuning.html").read_text()
    assert "goal met" in page
    assert "What mattered" in page
    assert not (Path(result["run"]) / "trainings").exists(), "what only the search needed is gone"
    assert any("best so far: trial" in words for words in told)


@pytest.mark.slow
def test_trials_that_differ_after_the_training_share_it(write: Callable[..., Path], tmp_path: Path) -> None:
    more = "  - onnx_export\nsearch: {onnx_export: true, onnx_export.opset: [18, 20]}\n"
    result = tune(write(more=more), goal="minimize artifact_bytes", budget=120, out=tmp_path / "t")
    assert result["exhausted"]
    assert result["trials"] == 3
    assert result["trainings"] == 1
    assert result["reused"] == 2
    accuracies = {one["figures"]["accuracy"] for one in result["tried"]}
    assert len(accuracies) == 1, "the weights are the same to the last bit"


@pytest.mark.slow
def test_two_processes_share_a_search_to_its_end(write: Callable[..., Path], tmp_path: Path) -> None:
    told: list[str] = []
    result = tune(
        write("slow_clouds", BATCHES), goal="minimize validation_loss", trials=6, budget=200, jobs=2,
        out=tmp_path / "t", tell=told.append,
    )  # fmt: skip
    assert any("2 running" in words for words in told)
    assert result["status"] == "finished"
    assert [one["trial"] for one in result["tried"]] == list(range(6))
    assert not result["failures"]
    finished = [line["finished"] for line in lines(tmp_path / "t", "finished")]
    assert len(finished) == len(set(finished)), "nothing is done twice"
    assert len(result["best"]["seeds"]) >= 3
    assert all(one["seeds"] == result["best"]["seeds"] for one in result["finalists"]), (
        "all by the same seeds"
    )


@pytest.mark.slow
def test_what_nothing_meets_says_how_near_it_came(write: Callable[..., Path], tmp_path: Path) -> None:
    result = tune(
        write(more=RATES), goal="minimize loss", subject_to=("accuracy >= 0.999",), trials=3, budget=120,
        out=tmp_path / "t",
    )  # fmt: skip
    assert not result["satisfied"]
    condition = result["best"]["conditions"][0]
    assert not condition["met"]
    assert 0 < condition["shortfall"] < 0.6
    assert "THE GOAL IS NOT MET" in Path(result["best"]["recipe"]).read_text()


def test_an_unknown_figure_is_told_before_anything_is_trained(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match='no figure "acuracy"; did you mean accuracy'):
        tune(write(more=RATES), goal="maximize acuracy", out=tmp_path / "t")
    assert not list((tmp_path / "t").glob("2*"))


def test_a_recipe_that_fails_ends_the_search_with_the_cause(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RunFailed, match=r"the recipe as it is fails.*planted: nothing works"):
        tune(write("always_fails", RATES), goal="maximize accuracy", out=tmp_path / "t")


@pytest.mark.parametrize(
    ("factory", "cause"),
    [
        ("fails_with_other_batches", "planted: too many rows"),
        ("disk_full_with_other_batches", "No space left"),
    ],
)
def test_a_cause_that_all_share_is_said_once(
    write: Callable[..., Path], tmp_path: Path, factory: str, cause: str
) -> None:
    with pytest.raises(RunFailed, match=f"5 trials in a row failed for one cause: .*{cause}") as error:
        tune(
            write(factory, BATCHES.replace("[32, ", "[")),
            goal="maximize accuracy",
            budget=120,
            out=tmp_path / "t",
        )
    assert str(error.value).count(cause) == 1
    folder = next(iter((tmp_path / "t").glob("*-mine")))
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["failures"][0]["count"] == 5
    assert cause in (folder / "tuning.html").read_text()


@pytest.mark.slow
def test_a_process_that_is_killed_may_try_again(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "mark"))
    more = "search: {train.batch_size: [32, 64]}\n"
    result = tune(write("killed_once", more), goal="maximize accuracy", budget=120, out=tmp_path / "t")
    assert (tmp_path / "mark").exists()
    assert not result["failures"]
    assert [one["state"] for one in result["tried"]] == ["finished", "finished"]


def test_a_budget_for_not_even_one_run_is_said(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the budget was spent before the recipe had run once; give it more"):
        tune(write(more=RATES), goal="maximize accuracy", budget=0.5, out=tmp_path / "t")


@pytest.mark.slow
def test_killed_and_gone_on_with(write: Callable[..., Path], tmp_path: Path) -> None:
    recipe, out = write("slow_clouds", RATES), tmp_path / "t"
    command = [sys.executable, "-m", "fulldeck", "tune", str(recipe), "--goal", "minimize validation_loss",
               "--trials", "6", "--budget", "200", "--out", str(out), "--jobs", "2"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (
        list(out.glob("*-mine/study.jsonl")) and lines(out, "finished")
    ):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = (next(iter(out.glob("*-mine"))) / "study.jsonl").read_text()
    assert '"finished"' in before
    other = r"there is no unfinished search of this very recipe.*differs in goal\.minimize"
    with pytest.raises(BadInput, match=other):
        tune(recipe, goal="minimize train_seconds", out=out, resume=True)
    result = tune(recipe, goal="minimize validation_loss", trials=6, budget=200, out=out, resume=True)
    after = (Path(result["run"]) / "study.jsonl").read_text()
    assert after.startswith(before[: before.rfind("\n") + 1]), "nothing is done twice"
    finished = [line["finished"] for line in lines(out, "finished")]
    assert len(finished) == len(set(finished))
    assert result["status"] == "finished"
    assert result["trials"] == 6
    with pytest.raises(BadInput, match="there is no unfinished search of this recipe"):
        tune(recipe, goal="minimize validation_loss", out=out, resume=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_search_in_one_line_and_it_goes_on_later(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write("slow_clouds", RATES)
    (disk := tmp_path / "disk").mkdir()
    done = on_small_disk(disk, "8m", f"exec {sys.executable} - {disk} {recipe} <<'EOF'\n{FULL_DISK}\nEOF")
    assert done.stdout.splitlines() == ["2 False True", "0 True 5"], done.stderr
