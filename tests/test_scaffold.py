"""`fulldeck new`: what it writes is found, keeps the contract and runs; what it must refuse."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.scaffold import STAGES, write_built_in, write_plugin

TINY_RUN = """
import fulldeck as fd

def test_new_instructions_act_in_a_run(tmp_path):
    plugins = [fd.NewData(), fd.NewTraining(), fd.NewInference(), fd.NewDeployment()]
    result = fd.run("breast_cancer", plugins, out=tmp_path, epochs=1)
    assert [item["status"] for item in result["instructions"]] == ["applied"] * 4
"""


def install(plugins: list[Path], site: Path) -> dict[str, str]:
    """Do what pip does with `pip install -e`; return the environment in which the plugins are installed."""
    for plugin in plugins:
        project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
        facts = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        (group, points), *_ = project["entry-points"].items()
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (facts / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    path = os.pathsep.join([str(site), *(str(plugin / "src") for plugin in plugins)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "2"}


def test_new_plugins_keep_the_contract_and_run(tmp_path: Path) -> None:
    plugins = [
        write_plugin(f"new_{stage}", stage, tmp_path, 100 + place)[0] for place, stage in enumerate(STAGES)
    ]
    environment = install(plugins, tmp_path / "site")
    listed = subprocess.run(
        [sys.executable, "-m", "fulldeck", "list", "--json"], env=environment, capture_output=True, check=True
    )
    content = json.loads(listed.stdout)
    assert content["broken"] == {}
    found = {item["name"]: item["number"] for item in content["instructions"] if not item["built_in"]}
    assert found == {f"new_{stage}": 100 + place for place, stage in enumerate(STAGES)}

    (tmp_path / "test_run.py").write_text(TINY_RUN)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_run.py", *map(str, plugins)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout


def test_a_plugin_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder, files = write_plugin("label_smoothing", "training", tmp_path)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == files
    assert [path.name for path in tmp_path.iterdir()] == ["fulldeck-label-smoothing"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="exists already"):
        write_plugin("label_smoothing", "training", tmp_path)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "stage", "number", "message"),
    [
        ("LabelSmoothing", "training", None, "is no instruction's name"),
        ("../escape", "training", None, "is no instruction's name"),
        ("label_2nd_try", "training", None, "is no instruction's name"),
        ("lambda", "training", None, "has a meaning of its own"),
        ("onnx_export", "training", None, "the name onnx_export is taken by fulldeck.instructions.inference"),
        ("fresh", "trainin", None, "did you mean training"),
        ("fresh", "training", 5, "between 100 and 9999, got 5"),
    ],
)
def test_bad_names_are_refused(
    tmp_path: Path, name: str, stage: str, number: int | None, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        write_plugin(name, stage, tmp_path / "inner", number)
    assert not (tmp_path / "inner").exists()


def test_a_built_in_instruction_is_two_files(tmp_path: Path) -> None:
    (tmp_path / "src/fulldeck/instructions").mkdir(parents=True)
    _, files = write_built_in("label_smoothing", "training", tmp_path, 99)
    assert files == [
        "src/fulldeck/instructions/training/label_smoothing.py",
        "tests/instructions/training/test_label_smoothing.py",
    ]
    assert "    99,\n" in (tmp_path / files[0]).read_text()
    with pytest.raises(BadInput, match="exists already"):
        write_built_in("label_smoothing", "training", tmp_path, 99)
    with pytest.raises(BadInput, match="the number 32 is taken by onnx_export"):
        write_built_in("other", "training", tmp_path, 32)
    with pytest.raises(BadInput, match="is no checkout of fulldeck"):
        write_built_in("other", "training", tmp_path / "src", 98)
