"""What the machine can do is measured once, and again only when it is another or when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fulldeck.diagnosis import ceilings as module
from fulldeck.diagnosis.ceilings import Ceilings, ceilings

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(module, "SIDE", {"cpu": 64})
    monkeypatch.setattr(module, "COPIED", {"cpu": 1 << 20})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_kept_between_calls_and_measured_again_when_asked(tmp_path: Path) -> None:
    first = ceilings(CPU)
    assert set(first.flops_per_s) >= {"float32", "bfloat16", "float16"}
    assert first.bytes_per_s > 0
    assert 0 < first.launch_s < 0.01
    (kept,) = (tmp_path / "fulldeck").iterdir()
    value = json.loads(kept.read_text())
    value["ceilings"]["bytes_per_s"] = 1.0
    value["busy"] = False
    kept.write_text(json.dumps(value))
    assert ceilings(CPU).bytes_per_s == 1.0
    assert ceilings(CPU, fresh=True).bytes_per_s > 1.0


def test_what_was_measured_beside_other_work_is_measured_again_and_the_better_kept(tmp_path: Path) -> None:
    ceilings(CPU)
    (kept,) = (tmp_path / "fulldeck").iterdir()
    value = json.loads(kept.read_text())
    value["ceilings"] |= {"bytes_per_s": 1.0, "launch_s": 1e-12}
    value["busy"] = True
    kept.write_text(json.dumps(value))
    again = ceilings(CPU)
    assert again.bytes_per_s > 1.0
    assert again.launch_s == 1e-12
    assert set(again.flops_per_s) == set(value["ceilings"]["flops_per_s"])


def test_another_number_of_threads_is_another_machine(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            ceilings(CPU)
    finally:
        torch.set_num_threads(threads)
    assert len(list((tmp_path / "fulldeck").iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1, "ceilings": {}}'])
def test_a_broken_cache_is_measured_anew(content: str, tmp_path: Path) -> None:
    ceilings(CPU)
    (kept,) = (tmp_path / "fulldeck").iterdir()
    kept.write_text(content)
    assert ceilings(CPU).bytes_per_s > 0
    assert json.loads(kept.read_text())["ceilings"]["bytes_per_s"] > 0


def test_a_home_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert ceilings(CPU).bytes_per_s > 0


def test_gain_of_a_narrower_type() -> None:
    machine = Ceilings({"float32": 100.0, "bfloat16": 200.0}, 1.0, 1.0)
    assert machine.gain("bfloat16") == 0.5
    assert machine.gain("int8") == 1.0
    assert machine.flops("float64") == 100.0
