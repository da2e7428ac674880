"""`fulldeck tune`: words, JSON, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Answer

RECIPE = """\
workload: breast_cancer
train: {epochs: 3, threads: 1}
instructions:
  - leakage_safe_splitting
search: {train.learning_rate: [0.001, 0.01]}
"""


def test_words_and_json(cli: Callable[..., Answer], recipe: Callable[[str], Path], tmp_path: Path) -> None:
    path = recipe(RECIPE)
    words = ("tune", path, "--goal", "minimize validation_loss", "--budget", "60s", "--out", tmp_path / "t")
    answer = cli(*words)
    assert answer.code == 0, answer.err
    assert "2 combinations tried" in answer.out
    assert "train.learning_rate: 0.01" in answer.out
    assert answer.out.splitlines()[-1].startswith("fulldeck run ")
    answer = cli(*words, "--subject-to", "accuracy >= 0.9999", "--json")
    assert answer.code == 1
    assert answer.json["satisfied"] is False
    assert {"best", "pareto", "trials", "satisfied"} <= set(answer.json)
    assert {"recipe", "metrics", "intervals"} <= set(answer.json["best"])
    assert answer.json == json.loads((Path(answer.json["run"]) / "result.json").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to search for"),
        (("--goal", "fast"), 'a goal is "minimize FIGURE"'),
        (("--goal", "maximize accuracy", "--subject-to", "small"), "a condition is such as"),
        (("--goal", "maximize accuracy", "--budget", "soon"), "a budget is a time such as"),
        (("--goal", "maximize accuracy", "--resume"), "there is no unfinished search of this recipe"),
    ],
)
def test_bad_input_is_one_line(
    cli: Callable[..., Answer],
    recipe: Callable[[str], Path],
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
) -> None:
    answer = cli("tune", recipe(RECIPE), "--out", tmp_path / "t", *words)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_interrupted_says_how_to_go_on(recipe: Callable[[str], Path], tmp_path: Path) -> None:
    path, out = recipe(RECIPE.replace("epochs: 3", "epochs: 3000")), tmp_path / "t"
    command = [
        sys.executable,
        "-m",
        "fulldeck",
        "tune",
        str(path),
        "--goal",
        "maximize accuracy",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(out.glob("*/study.jsonl")):
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; go on with: fulldeck tune" in said
    assert "--resume" in said
    folder = next(iter(out.glob("*-recipe")))
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
