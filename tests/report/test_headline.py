"""The ten seconds: one sentence and up to four figures."""

from pathlib import Path

from fulldeck.report.headline import headline
from fulldeck.report.run_files import read_run
from tests.report.run_folders import metrics, result, write_run


def test_before_and_after_of_a_finished_run(tmp_path: Path) -> None:
    sentence, tiles = headline(read_run(write_run(tmp_path / "run")))
    plain = sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert "97.5 % accuracy on test data" in plain
    assert "4× smaller and 16× faster" in plain
    assert "asked 100 times: 100 % of its answers" in plain
    assert [(tile.title, tile.ratio, tile.worse) for tile in tiles] == [
        ("Accuracy", "", False),
        ("Size", "4× smaller", False),
        ("Latency", "16× faster", False),
        ("Memory", "4× less", False),
    ]
    assert [bar.percent for bar in tiles[1].bars] == [100, 25]


def test_a_run_that_got_worse_says_so(tmp_path: Path) -> None:
    made = result()
    made["instructions"][-1]["changes"]["latency_ms"]["after"] = 4.0
    _, tiles = headline(read_run(write_run(tmp_path / "run", result=made)))
    assert (tiles[2].ratio, tiles[2].worse) == ("5× slower", True)


def test_without_conversions_there_is_nothing_to_compare(tmp_path: Path) -> None:
    made = result(instructions=[], rehearsal=None, memory=None)
    sentence, tiles = headline(read_run(write_run(tmp_path / "run", result=made)))
    assert [tile.title for tile in tiles] == ["Accuracy"]
    assert "smaller" not in sentence


def test_an_unfinished_run_shows_its_last_epoch(tmp_path: Path) -> None:
    made = result(status="failed", metrics={}, instructions=[], rehearsal=None, memory=None)
    sentence, tiles = headline(read_run(write_run(tmp_path / "run", result=made)))
    assert sentence == ""
    assert (tiles[0].title, tiles[0].note) == ("Validation accuracy", "epoch 3")
    bare = [{"epoch": 0, "step": 9, "loss": 1.5}]
    assert headline(read_run(write_run(tmp_path / "bare", result=made, metrics=bare)))[1][0].title == "Loss"
    assert metrics()[0].keys() > bare[0].keys()
