"""Run folders: never shared, found again, honest about how a run ended."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.run_folder import METRICS, RunFolder


def test_many_runs_at_once_into_one_name_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder.create(tmp_path, "digits", "a: 1\n").path, range(40)))
    assert len(set(folders)) == 40


def test_a_held_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "digits", "a: 1\n")
    with folder.locked(), pytest.raises(BadInput, match="another process is working in"), folder.locked():
        pass


def test_the_newest_unfinished_run_of_the_same_recipe_is_found(tmp_path: Path) -> None:
    old = RunFolder.create(tmp_path, "digits", "a: 1\n")
    new = RunFolder.create(tmp_path, "digits", "a: 1\n")
    RunFolder.create(tmp_path, "digits", "a: 2\n")
    assert RunFolder.unfinished(tmp_path, "digits", "a: 1\n") == new
    new.write_result({"status": "finished"})
    assert RunFolder.unfinished(tmp_path, "digits", "a: 1\n") == old
    with old.locked(), pytest.raises(BadInput, match="no unfinished run of this very recipe"):
        RunFolder.unfinished(tmp_path, "digits", "a: 1\n")
    with pytest.raises(BadInput, match="no unfinished run of this recipe"):
        RunFolder.unfinished(tmp_path, "digit", "a: 1\n")


def test_a_run_with_other_settings_is_named_with_what_differs(tmp_path: Path) -> None:
    there = RunFolder.create(tmp_path, "digits", "workload: digits\ntrain: {epochs: 20, seed: 0}\n")
    RunFolder.create(tmp_path, "digits-small", "workload: digits\ntrain: {epochs: 3, seed: 1}\n")
    with pytest.raises(BadInput) as refused:
        RunFolder.unfinished(tmp_path, "digits", "workload: digits\ntrain: {epochs: 3, seed: 0}\n")
    assert str(refused.value) == (
        f"there is no unfinished run of this very recipe below {tmp_path}; {there.path} differs in "
        "train.epochs: 20 there, 3 here: go on with it with --set train.epochs=20, or start one without "
        "--resume"
    )
    with pytest.raises(
        BadInput, match=r"digits differs in .*: go on with it with the settings in .*recipe\.yaml"
    ):
        RunFolder.unfinished(tmp_path, "digits", "workload: digits\ntrain: {epochs: 20, threads: 1}\n")


def test_latest_points_to_the_newest(tmp_path: Path) -> None:
    for _ in range(2):
        folder = RunFolder.create(tmp_path, "digits", "a: 1\n")
        folder.point_latest()
        assert (tmp_path / "latest").resolve() == folder.path.resolve()


def test_metrics_of_repeated_epochs_are_not_kept_twice(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "digits", "a: 1\n")
    for epoch in range(3):
        folder.append_metrics({"epoch": epoch, "loss": 1.0})
    with (folder.path / METRICS).open("a") as stream:
        stream.write('{"epoch": 3, "lo')  # killed in the middle of a line
    folder.rewind_metrics(2)
    folder.append_metrics({"epoch": 2, "loss": 0.5})
    lines = [json.loads(line) for line in (folder.path / METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[2]["loss"] == 0.5


def test_an_out_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        BadInput, match=r"cannot make a run folder below .*file: not a directory; choose another with --out"
    ):
        RunFolder.create(tmp_path / "file", "digits", "")
    with pytest.raises(
        BadInput, match=r"cannot make a run folder below /proc/here: .*; choose another with --out"
    ):
        RunFolder.create(Path("/proc/here"), "digits", "")


def test_a_run_that_could_not_begin_is_not_what_latest_points_to(tmp_path: Path) -> None:
    first, second = (RunFolder.create(tmp_path, "digits", "a: 1\n") for _ in range(2))
    second.point_latest()
    second.discard()
    assert (tmp_path / "latest").resolve() == first.path.resolve()
    first.discard()
    assert list(tmp_path.iterdir()) == []
