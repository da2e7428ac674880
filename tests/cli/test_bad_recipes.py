"""Recipes that cannot be used: every problem at once, each one line with file and line, nothing written."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Write = Callable[[str], Path]

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{letter}: &{letter} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, letter in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD = {
    "unknown instruction": (
        "workload: digits\ninstructions:\n  - onnx_exprt\n",
        ['unknown instruction "onnx_exprt"; did you mean onnx_export (32)? (RECIPE:3)'],
    ),
    "unknown parameter": (
        "workload: digits\ninstructions:\n  - onnx_export:\n      opsett: 20\n",
        ['unknown parameter "opsett" of onnx_export; did you mean opset? (RECIPE:4)'],
    ),
    "out of range": (
        "workload: digits\ninstructions:\n  - onnx_export\n  - auto_data_augmentation: {epsilon: 8}\n",
        ["auto_data_augmentation.epsilon must be between 0 and 1, got 8", "(RECIPE:4)"],
    ),
    "two problems": (
        "workload: digitz\ntrain: {epochs: 0}\n",
        [
            'unknown workload "digitz"; did you mean digits?',
            "(RECIPE:1)",
            "epochs must be at least 1",
            "(RECIPE:2)",
        ],
    ),
    "conflict": (
        "workload: digits\ninstructions: [onnx_export, onnx_export]\n",
        ["onnx_export and onnx_export#2 exclude each other: it may stand only once in a recipe"],
    ),
    "strict order against a rule": (
        "workload: digits\norder: strict\ninstructions:\n  - post_training_quantization\n  - onnx_export\n",
        [
            "post_training_quantization must come after onnx_export",
            "move it, or drop order: strict (RECIPE:4)",
        ],
    ),
    "cannot act": (
        "workload: breast_cancer\ninstructions:\n  - auto_data_augmentation\n",
        ["auto_data_augmentation cannot act: works on image data, and this is table data", "(RECIPE:3)"],
    ),
    "bomb": (BOMB, ["more than 5,000 values, with aliases written out (RECIPE:"]),
    "nesting": ("workload: " + "[" * 500, ["nested more than 20 levels deep (RECIPE:1)"]),
    "no YAML": (
        "workload: [digits\n",
        ['the bracket that opens in "workload: [digits" is not closed (RECIPE:1)'],
    ),
    "indented too far": (
        "workload: digits\ntrain:\n  epochs: 3\n    threads: 1\n",
        ['"threads: 1" is indented by 4 and the line above by 2; what belongs together is', "(RECIPE:4)"],
    ),
    "indented too little": (
        "workload: digits\ntrain:\n  epochs: 3\n threads: 1\n",
        ['"threads: 1" is indented by 1 and the line above by 2', "(RECIPE:4)"],
    ),
    "a colon above is missing": (
        "workload: digits\ninstructions:\n  - weight_averaging\n      decay: 0.9\n",
        ["end the line above with a colon, or indent both alike (RECIPE:4)"],
    ),
    "a key without a colon": (
        "workload: digits\ninstructions\n  - onnx_export\n",
        ['a colon is missing after "instructions" (RECIPE:2)'],
    ),
    "a tab": ("workload: digits\ntrain:\n\tepochs: 3\n", ['"epochs: 3" stands after a tab', "(RECIPE:3)"]),
    "an open quotation": ('workload: "digits\n', ["the quotation mark that opens in", "(RECIPE:1)"]),
    "parameters beside their instruction": (
        "workload: digits\ninstructions:\n  - weight_averaging:\n    decay: 0.9\n",
        ["indent decay by two more, so that it belongs to weight_averaging (RECIPE:4)"],
    ),
    "no mapping": ("- digits\n", ["a recipe is a mapping that begins with workload: (RECIPE:1)"]),
    "unknown device": ("workload: digits\ntrain: {device: gpu}\n", ['device "gpu"']),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_recipes(cli: Cli, recipe: Write, tmp_path: Path, name: str) -> None:
    text, messages = BAD[name]
    path = recipe(text)
    for words in (["plan", path], ["run", path, "--out", tmp_path / "runs"]):
        answer = cli(*words)
        assert (answer.code, answer.out) == (2, "")
        assert all(line.startswith("error: ") for line in answer.err.splitlines())
        said = answer.err.replace(str(path), "RECIPE")
        for message in messages:
            assert message in said
    assert not (tmp_path / "runs").exists(), "nothing half-written is left"


def test_missing_files(cli: Cli, tmp_path: Path) -> None:
    assert "nowhere.yaml does not exist" in cli("run", tmp_path / "nowhere.yaml").err
    assert "is not a file" in cli("plan", tmp_path).err


def test_missing_data(cli: Cli, recipe: Write, tmp_path: Path) -> None:
    path = recipe("workload: {kind: table, path: nowhere.csv}\n")
    answer = cli("run", path, "--out", tmp_path / "runs")
    assert answer.code == 2
    assert "nowhere.csv does not exist" in answer.err
    assert not list((tmp_path / "runs").glob("2*")), "nothing half-written is left"


def test_settings_are_checked(cli: Cli) -> None:
    assert (
        '--set takes key=value, such as train.epochs=3, got "epochs"'
        in cli("plan", "digits", "--set", "epochs").err
    )
    refused = cli("plan", "digits", "--set", "train.epochs=0").err
    assert "epochs must be at least 1, got 0. (--set)" in refused


def test_an_extra_that_is_not_installed(
    cli: Cli, recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    path = recipe("workload: {kind: table, path: data.parquet, target: y}\n")
    answer = cli("run", path, "--out", tmp_path / "runs")
    assert answer.code == 2
    assert 'polars is not installed: pip install "fulldeck[files]"' in answer.err


def test_an_out_folder_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cli("run", "digits", "--out", tmp_path / "file").code == 2
    answer = cli("run", "digits", "--out", tmp_path / "file" / "runs")
    assert answer.code == 2
    assert "cannot make a run folder below" in answer.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_out_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    answer = cli("run", "digits", "--out", tmp_path / "runs")
    assert answer.code == 2
    assert "permission denied; choose another with --out" in answer.err


def test_there_is_nothing_to_resume(cli: Cli, tmp_path: Path) -> None:
    answer = cli("run", "digits", "--resume", "--out", tmp_path)
    assert answer.code == 2
    assert "there is no unfinished run of this recipe" in answer.err
