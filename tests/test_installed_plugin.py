"""A plugin in an environment of its own, from wheels: listed, planned, run, verified, tuned and documented like a
built-in instruction; and a broken one beside it, which is named and disturbs nobody.

The environment takes fulldeck's dependencies from the one that the tests run in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from fulldeck.scaffold import write_plugin

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
RECIPE = """\
workload: breast_cancer
train: {epochs: 3, threads: 1}
instructions:
  - leakage_safe_splitting
  - new_training
  - onnx_export
  - model_packaging
"""


class Environment:
    """A virtual environment with fulldeck and two plugins, all of them from wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        good, _ = write_plugin("new_training", "training", folder, 150)
        broken, _ = write_plugin("new_data", "data", folder, 151)
        module = next((broken / "src").rglob("new_data.py"))
        module.write_text(module.read_text() + "\n\nimport no_such_module_anywhere\n")
        next((broken / "src").rglob("catalogue.json")).unlink()
        self._build([ROOT, good, broken])
        self.plugin = good
        venv.create(folder / "venv", with_pip=False)
        self.python = folder / "venv/bin/python"
        site = next((folder / "venv/lib").glob("python*/site-packages"))
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
            str(site),
        ]
        subprocess.run([*command, *map(str, sorted((folder / "wheels").iterdir()))], check=True)
        # Dependencies, after what is installed here.
        (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def _build(self, sources: list[Path]) -> None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            str(self.folder / "wheels"),
        ]
        built = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, check=False)
        if built.returncode:
            pytest.skip(
                f"wheels were NOT built, which takes the build tools of pyproject.toml: {built.stderr[-300:]}"
            )

    def fulldeck(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(self.python), "-m", "fulldeck", *words],
            cwd=self.folder,
            env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "110"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "mine.yaml").write_text(RECIPE)
    return Environment(folder)


def test_it_is_listed_and_documents_itself(environment: Environment) -> None:
    content = json.loads(environment.fulldeck("list", "--json").stdout)
    assert {one["name"]: one["number"] for one in content["instructions"] if not one["built_in"]} == {
        "new_training": 150
    }
    words = environment.fulldeck("show", "new_training").stdout
    assert "Use when" in words
    assert "Avoid when" in words
    schema = environment.fulldeck("schema").stdout
    assert "new_training" in schema


def test_a_broken_one_is_named_and_disturbs_nobody(environment: Environment) -> None:
    content = json.loads(environment.fulldeck("list", "--json").stdout)
    assert list(content["broken"]) == ["new_data"]
    assert "no_such_module_anywhere" in content["broken"]["new_data"]
    assert "new_data" in environment.fulldeck("doctor").stdout
    recipe = environment.folder / "broken.yaml"
    recipe.write_text(RECIPE.replace("new_training", "new_data"))
    said = environment.fulldeck("plan", "broken.yaml", code=2).stderr
    assert "new_data" in said
    assert "no_such_module_anywhere" in said
    assert "Traceback" not in said


def test_it_is_planned_and_run(environment: Environment) -> None:
    steps = json.loads(environment.fulldeck("plan", "mine.yaml", "--json").stdout)["steps"]
    assert "new_training" in [one["label"] for one in steps]
    result = json.loads(environment.fulldeck("run", "mine.yaml", "--json").stdout)
    assert {one["name"]: one["status"] for one in result["instructions"]}["new_training"] == "applied"
    assert "new_training" in (environment.folder / result["run"] / "report.html").read_text()


def test_it_is_verified(environment: Environment) -> None:
    words = ("verify", "new_training", "--recipe", "mine.yaml", "--quick", "--budget", "40s", "--json")
    result = json.loads(environment.fulldeck(*words).stdout)
    assert result["name"] == "new_training"
    assert result["verdict"] in {"helps", "no difference", "hurts", "inconclusive"}


def test_it_is_tuned(environment: Environment) -> None:
    recipe = environment.folder / "tuned.yaml"
    recipe.write_text(RECIPE + "search: {new_training: true, train.batch_size: [32, 64]}\n")
    words = (
        "tune",
        "tuned.yaml",
        "--goal",
        "minimize validation_loss",
        "--budget",
        "90s",
        "--trials",
        "4",
        "--json",
    )
    result = json.loads(environment.fulldeck(*words).stdout)
    tried = {one["changes"].get("new_training", True) for one in result["tried"]}
    assert tried == {True, False}


def test_it_keeps_the_contract(environment: Environment) -> None:
    done = subprocess.run(
        [
            str(environment.python),
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(environment.plugin / "tests"),
        ],
        cwd=environment.folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
