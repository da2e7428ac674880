"""What is read of a run folder, whole or not."""

from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.report.run_files import read_run
from fulldeck.run_folder import RunFolder
from tests.report.run_folders import result, write_run


def test_a_finished_run_is_whole(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "20261123-141500-digits"))
    assert (run.status, run.name, run.missing) == ("finished", "digits", {})
    assert run.began == "23 November 2026, 14:15"
    assert run.last_split == ("test", {"accuracy": 0.975})


@pytest.mark.parametrize(
    "name", ["recipe.yaml", "plan.json", "result.json", "metrics.jsonl", "evaluation.json"]
)
def test_a_file_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).unlink()
    run = read_run(folder)
    # Without a result it is not known whether the run had come as far as the later files.
    assert run.missing == {name: "it is not in the folder"}


def test_unreadable_files_are_named_with_the_reason(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "plan.json").write_text('{"steps": [')
    (folder / "recipe.yaml").write_text("a: [1\n")
    (folder / "evaluation.json").write_bytes(b"\xff\xfe")
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 3, "st')
    run = read_run(folder)
    assert run.missing["plan.json"].startswith("it is not JSON")
    assert "recipe.yaml" in run.missing["recipe.yaml"]
    assert run.missing["evaluation.json"] == "it is not UTF-8 text"
    assert run.missing["metrics.jsonl"] == "line 4 is cut off; the curves end before it"
    assert len(run.metrics) == 3


def test_running_and_stopped_are_told_apart_by_the_lock(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", result=result(status="running"))
    (folder / "metrics.jsonl").unlink()
    (folder / "evaluation.json").unlink()
    with RunFolder(folder).locked():
        running = read_run(folder)
    assert (running.status, running.missing) == ("running", {})
    assert read_run(folder).status == "stopped"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, said in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "file", "is not a folder"),
        (tmp_path, "is not a run"),
    ):
        with pytest.raises(BadInput, match=said):
            read_run(path)


def test_a_line_that_is_no_epoch_ends_the_curves(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('[]\n{"epoch": 4, "step": 80}\n')
    run = read_run(folder)
    assert (len(run.metrics), run.missing) == (
        3,
        {"metrics.jsonl": "line 4 tells of no epoch; the curves end before it"},
    )
