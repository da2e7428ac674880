"""`fulldeck fingerprint`: the right key, a wrong key, a wrong model, and a server that only answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fulldeck.cli import main
from fulldeck.serving.process import server

Cli = Callable[..., Any]
RECIPE = """\
workload: breast_cancer
train: {epochs: 12, threads: 1}
instructions:
  - leakage_safe_splitting
  - model_fingerprinting: {key: %s}
  - onnx_export
  - model_packaging
"""


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a run whose model has its mark."""
    folder = tmp_path_factory.mktemp("owned")
    key, recipe = folder / "owner.key", folder / "mine.yaml"
    assert main(["fingerprint", "new", str(key)]) == 0
    recipe.write_text(RECIPE % key)
    assert main(["run", str(recipe), "--out", str(folder / "runs"), "--quiet"]) == 0
    return key, folder / "runs/latest"


def test_the_owner_is_recognised(cli: Cli, owned: tuple[Path, Path]) -> None:
    key, run = owned
    answer = cli("fingerprint", "verify", run, "--key", key)
    assert answer.code == 0
    assert "the mark of this key is in this model" in answer.out + answer.err
    content = cli("fingerprint", "verify", run / "package", "--key", key, "--json").json
    assert content["found"]
    assert content["triggers"]["p_value"] < 1e-15
    assert content["weights"]["p_value"] < 1e-10
    assert content["triggers"]["queries"] == 100


def test_another_key_is_not(cli: Cli, owned: tuple[Path, Path], tmp_path: Path) -> None:
    made = cli("fingerprint", "new", tmp_path / "other.key", "--json")
    assert len(made.json["commitment"]) == 64
    answer = cli("fingerprint", "verify", owned[1], "--key", tmp_path / "other.key")
    assert answer.code == 1
    assert "no sign of this key's mark: it is another key, or another model" in answer.out + answer.err


def test_another_model_is_not_the_owners(cli: Cli, owned: tuple[Path, Path], finished: Path) -> None:
    answer = cli("fingerprint", "verify", finished, "--key", owned[0], "--json")
    assert answer.code == 1
    assert not answer.json["found"]
    assert answer.json["p_value"] > 1e-3


def test_a_server_is_only_asked(cli: Cli, owned: tuple[Path, Path]) -> None:
    key, run = owned
    with server(run / "package") as (url, _):
        for address in (url, f"{url}/v2/models/breast_cancer"):
            answer = cli("fingerprint", "verify", address, "--key", key, "--json")
            assert answer.code == 0
            assert answer.json["triggers"]["p_value"] < 1e-15
            assert answer.json["weights"] is None
        nothing = cli("fingerprint", "verify", f"{url}/v2/models/other", "--key", key)
        assert nothing.code == 2
        assert "answers 404" in nothing.err


def test_what_cannot_be_asked_is_named(cli: Cli, owned: tuple[Path, Path], tmp_path: Path) -> None:
    key, run = owned
    for words, code, said in (
        (["verify", run], 2, "say whose mark to look for: --key FILE"),
        (["new", tmp_path / "a.key", "--key", key], 2, "write: fulldeck fingerprint new FILE"),
        (["new", key], 2, "a key that is lost cannot be made again"),
        (["verify", run, "--key", run / "result.json"], 2, "is no owner's key"),
        (["verify", tmp_path, "--key", key], 2, "is neither a run nor a package"),
        (["verify", "http://127.0.0.1:9", "--key", key], 1, "does not answer"),
        (["verify", "ftp://127.0.0.1", "--key", key], 2, "is no address such as"),
        (["verify", run, "--key", key, "--shape", "3,x"], 2, "--shape takes sizes such as 3,32,32"),
        (["steal", run], 2, "steal"),
    ):
        answer = cli("fingerprint", *words)
        assert answer.code == code, answer.err
        assert said in answer.err


def test_a_model_that_is_no_classifier_says_so(cli: Cli, owned: tuple[Path, Path], tmp_path: Path) -> None:
    from tests.serving.packages import sum_package

    answer = cli("fingerprint", "verify", sum_package(tmp_path / "sums"), "--key", owned[0])
    assert answer.code == 2
    assert "is no classifier but does regression" in answer.err
