"""Two processes learn what one does from the same batches: the same losses, up to rounding, and the same decisions.

Those with batch statistics, dropout or a limit on time come to something else, but to the same on all ranks. One
process imports torch and forks; all cases run in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.parity_process import CASES, KINDS, goes_with

PAIRS = [(name, kind) for name, case in CASES.items() for kind in KINDS if goes_with(case, kind)]
WAYS = [f"{one}, {other}" for one, other in product(("alone", *KINDS), repeat=2)][1:]
DECISIONS = ("stopped", "skipped", "epochs", "steps", "notes")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("parity")
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "tests.distributed.parity_process", str(folder)],
        check=True,
        cwd=root,
        timeout=200,
    )
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if CASES[pair[0]].like_one])
def test_two_processes_learn_what_one_does(found: dict[str, Any], name: str, kind: str) -> None:
    alone, both = found["alone"][name], found["ranks"][0][kind][name]
    for decision in DECISIONS:
        assert both[decision] == alone[decision], decision
    assert both["rate"] == pytest.approx(alone["rate"], rel=1e-6)
    np.testing.assert_allclose(both["losses"], alone["losses"], rtol=1e-4, atol=1e-5)
    for weight, values in alone["weights"].items():
        np.testing.assert_allclose(both["weights"][weight], values, rtol=1e-3, atol=1e-4, err_msg=weight)
    for one, other in zip(both["history"], alone["history"], strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_all_ranks_have_the_same_bits(found: dict[str, Any], name: str, kind: str) -> None:
    first, second = (rank[kind][name] for rank in found["ranks"])
    for what in ("weights", "losses", "history", *DECISIONS):
        assert first[what] == second[what], what


@pytest.mark.parametrize(
    "way",
    [
        f"{one}, {other}"
        for one, other in product(("alone", *KINDS), repeat=2)
        if one != "alone" or other != "alone"
    ],
)
def test_what_one_way_has_begun_another_ends(found: dict[str, Any], way: str) -> None:
    ended, expected = found["over"][way], found["alone"]["kept"]
    assert ended["steps"] == expected["steps"]
    for weight, values in expected["weights"].items():
        np.testing.assert_allclose(ended["weights"][weight], values, rtol=1e-3, atol=1e-4, err_msg=weight)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_that_of_one_process_is_said(found: dict[str, Any], kind: str) -> None:
    (note,) = found["ranks"][0][kind]["batch statistics"]["notes"]
    assert note.endswith(
        "not exactly the training of one process: batch-norm takes its statistics from each process's rows, dropout "
        "draws other masks"
    )


def test_the_cases_decide_something(found: dict[str, Any]) -> None:
    assert found["alone"]["clipping and skipping"]["skipped"]
    assert found["alone"]["early stopping of an average"]["stopped"]
    assert found["alone"]["plateau"]["rate"] < CASES["plateau"].rate
    memory = found["ranks"][0]["replicas"]["memory that runs out on one rank"]["reported"]
    assert memory["dynamic_batch_scheduler"]["ran_out_of_memory"]["after"] > 0
    assert found["alone"]["range test"]["rate"] != CASES["range test"].rate
