"""What a package's environment.txt names: all that its server imports, and enough to serve it elsewhere."""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

import fulldeck
from fulldeck.package.environment_lock import closure, lock
from tests.serving.packages import image_package

TRACE = """
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
import fulldeck.cli.serve, fulldeck.serving.server, fulldeck.serving.worker
from fulldeck.package import Package
from fulldeck.report.page import render
package = Package.open(Path(sys.argv[1]))
package.engine(), package.encoder()
import PIL.Image, prometheus_client
owners = packages_distributions()
print(*{owner for name in sys.modules for owner in owners.get(name.partition(".")[0], ())})
"""
ANSWER = """
import sys
from pathlib import Path
import numpy as np
from fulldeck.package import Package
rows = np.random.default_rng(0).normal(size=(4, 1, 4, 4)).astype(np.float32)
print(Package.open(Path(sys.argv[1])).engine().run({"input": rows})["output"].tobytes().hex())
"""
TOOLS = {"setuptools", "pip", "fulldeck"}


def names(text: str) -> set[str]:
    return {line.partition("==")[0] for line in text.splitlines() if not line.startswith("#")}


def test_everything_that_a_server_imports_is_named_and_pytorch_is_not(tmp_path: Path) -> None:
    package = image_package(tmp_path / "package")
    done = subprocess.run([sys.executable, "-c", TRACE, str(package)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = names(lock(["onnxruntime"], "image"))
    imported = {name.lower().replace("_", "-").replace(".", "-") for name in done.stdout.split()}
    assert imported - TOOLS <= found
    assert "torch" not in found


def test_versions_are_exact_and_needs_of_needs_are_there() -> None:
    found = closure(["pydantic"])
    assert found["pydantic"] == version("pydantic")
    assert "pydantic-core" in found
    assert "torch" in names(lock(["torch"], "table"))


def test_only_versions_that_an_index_has_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "numpy-2.0.0+cpu.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.0.0+cpu\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "numpy==2.0.0" in lock(["onnxruntime"], "image").splitlines()


@pytest.mark.slow
def test_a_fresh_environment_answers_with_the_same_bits(tmp_path: Path) -> None:
    package = image_package(tmp_path / "package")
    (tmp_path / "environment.txt").write_text(lock(["onnxruntime"], "image"))
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-r", tmp_path / "environment.txt"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1][:200]}")
    source = str(Path(fulldeck.__file__).parents[1])
    answers = [
        subprocess.run(
            [one, "-c", ANSWER, str(package)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": source},
        ).stdout
        for one in (sys.executable, python)
    ]
    assert answers[0] == answers[1] != ""
    there = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True)
    assert "torch" not in {one["name"] for one in json.loads(there.stdout)}
