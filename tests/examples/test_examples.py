"""The examples run as they are, and learn what they are about."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fulldeck.pipeline.run import run
from fulldeck.recipe.reader import read_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_every_example_is_run_here() -> None:
    there = {path.stem for path in EXAMPLES.glob("*.py")}
    assert there == {"plain_loop", "lightning_module", "huggingface_model"}


def test_plain_loop(tmp_path: Path) -> None:
    assert module("plain_loop").main(tmp_path) > 0.95
    assert (tmp_path / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("name", "library", "accuracy"),
    [("lightning_module", "lightning", 0.9), ("huggingface_model", "transformers", 0.85)],
)
def test_a_factory(
    name: str, library: str, accuracy: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed: pip install {library}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    recipe = read_recipe(EXAMPLES / f"{name}.yaml", ["train.threads=1", "train.device=cpu"])
    result = run(recipe, out=tmp_path)
    assert result["metrics"]["test"]["accuracy"] > accuracy
    assert result["rehearsal"]["agreement"] == 1.0
