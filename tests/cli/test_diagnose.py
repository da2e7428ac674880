"""`fulldeck diagnose`: figures and words, at every width, and bad input in one line."""

import json
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Answer

RECIPE = "workload: breast_cancer\ntrain: {threads: 1, batch_size: 64}\n"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_words_and_figures(
    cli: Callable[..., Answer],
    recipe: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = recipe(RECIPE)
    answer = cli("diagnose", path, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert answer.err == ""
    assert answer.json == json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert answer.json["kind"] == "training"
    assert {"step", "operators", "ceilings", "memory", "bottleneck", "advice", "machine"} <= set(answer.json)
    for columns in (80, 40):
        monkeypatch.setenv("COLUMNS", str(columns))
        out = written(answer.json)
        assert all(len(line) <= columns for line in out.splitlines()), out
        assert "forward" in out
        assert "#" in out
        assert answer.json["bottleneck"]["sentence"].split()[0] in out


def written(result: dict[str, Any]) -> str:
    import contextlib
    import io

    from fulldeck.cli.diagnosis_summary import write_diagnosis

    with contextlib.redirect_stdout(io.StringIO()) as stream:
        write_diagnosis(result)
    return stream.getvalue()


def test_what_was_measured_is_said_beside_what_was_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    from fulldeck.cli.diagnosis_summary import verified

    item = {
        "predicted": 0.5,
        "verified": {
            "verdict": "no difference",
            "ratio": 0.99,
            "interval": [0.98, 1.01],
            "missed": True,
            "reason": None,
            "not_measured": ["accuracy"],
        },
    }
    assert (
        verified(item)
        == "no difference, predicted 0.50x, measured 0.99x (0.98 to 1.01): the prediction missed; no time was left "
        "for accuracy"
    )


def test_a_finished_run(
    cli: Callable[..., Answer], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    answer = cli("diagnose", "--inference", finished, "--out", tmp_path, "--open")
    assert answer.code == 0, answer.err
    assert shown == [(tmp_path / "diagnosis.html").as_uri()]
    assert "Where a forward pass goes" in (tmp_path / "diagnosis.html").read_text()
    assert "a forward pass of one row takes" in answer.out
    assert "engine onnxruntime: available" in answer.out
    assert "hidden.0 + hidden.1" in answer.out
    assert "at best, as measured on this machine: float32 " in answer.out
    assert answer.out.splitlines()[-1] == f"fulldeck compile {finished}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to diagnose"),
        (("digits", "--inference", "runs/latest"), "say what to diagnose"),
        (("digits", "--output", "x.yaml"), "--output and --force go with --verify"),
        (("--inference", "runs/latest", "--verify"), "--verify and --set go with a RECIPE"),
        (("digits", "--verify", "--budget", "soon"), "a budget is a time"),
        (("digits", "--verify", "--set", "train.epochs=1"), "write what --set changes into the file"),
        (("digits", "--verify", "--output", "absent/x.yaml"), "there is no folder absent"),
        (("digits", "--set", "train.device=cuda"), 'device "cuda" is not here'),
        (("--inference", "absent"), "absent is no run"),
        (("digitz",), "did you mean digits"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...],
    said: str,
    cli: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    if "cuda" in str(words) and torch.cuda.is_available():
        pytest.skip("it is here")
    monkeypatch.chdir(tmp_path)
    answer = cli("diagnose", *words)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_an_output_that_exists(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "better.yaml").write_text("mine")
    answer = cli("diagnose", "digits", "--verify", "--output", tmp_path / "better.yaml")
    assert answer.code == 2
    assert "exists; write --force" in answer.err
    assert (tmp_path / "better.yaml").read_text() == "mine"


def test_a_recipe_that_fails_in_its_first_step(
    cli: Callable[..., Answer], recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "failing_factory.py").write_text(
        "import numpy as np\nfrom torch import nn\n"
        "def make():\n"
        "    return {'model': lambda: nn.Linear(3, 2), 'data': (np.ones((8, 4)), np.arange(8) % 2)}\n"
    )
    path = recipe('workload: {kind: python, factory: "failing_factory:make"}\ntrain: {threads: 1}\n')
    answer = cli("diagnose", path, "--out", tmp_path / "out")
    assert answer.code == 1
    assert answer.err.startswith("error: step 1 of the training failed: RuntimeError: mat1 and mat2")
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
