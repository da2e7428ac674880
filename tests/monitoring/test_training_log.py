"""What a training tells of itself, and how it is followed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fulldeck.monitoring import training_log
from fulldeck.monitoring.training import KEPT, LIVE, Follower
from fulldeck.monitoring.training_log import TrainingLog


@pytest.fixture
def each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for every step."""
    monkeypatch.setattr(training_log, "SECONDS", 0.0)


@pytest.mark.usefixtures("each_step")
def test_a_follower_hears_everything_once(tmp_path: Path) -> None:
    log, follower = TrainingLog(tmp_path, name="mine"), Follower(tmp_path)
    (first,) = follower.read()
    assert (first.name, first.status, first.done) == ("mine", "running", 0)
    for step in range(5):
        log.step(samples=10, loss=1.0 / (step + 1))
    moments = follower.read()
    assert [moment.samples for moment in moments] == [10, 20, 30, 40, 50]
    assert [moment.loss for moment in moments] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert moments[-1].buckets[-1] == 4, "between five beginnings lie four steps"
    assert moments[-1].p50 is not None
    assert follower.read() == []


@pytest.mark.usefixtures("each_step")
def test_the_file_stays_small_and_a_follower_loses_nothing(tmp_path: Path) -> None:
    log, follower = TrainingLog(tmp_path), Follower(tmp_path)
    heard = follower.read()
    for _ in range(3 * KEPT):
        log.step(samples=1)
        heard += follower.read()
    assert [moment.done for moment in heard] == list(range(3 * KEPT + 1))
    assert KEPT <= len((tmp_path / LIVE).read_text().splitlines()) <= 2 * KEPT
    late = Follower(tmp_path).read()
    assert late[-1] == heard[-1]
    assert len(late) >= KEPT


def test_a_pause_is_no_step(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.count(1)
    log.pause()
    log.count(1)
    log.write()
    assert Follower(tmp_path).read()[-1].buckets[-1] == 0


def test_a_line_without_an_end_and_what_is_no_line_are_left_out(tmp_path: Path) -> None:
    log, follower = TrainingLog(tmp_path), Follower(tmp_path)
    follower.read()
    with (tmp_path / LIVE).open("a") as stream:
        stream.write('[]\n{"at": 1}\nnothing\n')
        stream.flush()
        assert follower.read() == []
        stream.write('{"at": ')
        stream.flush()
        assert follower.read() == []
    (tmp_path / LIVE).write_text("")
    log.write(stage="again")
    assert Follower(tmp_path).read()[-1].stage == "again"


def test_a_full_disk_does_not_end_a_training(tmp_path: Path) -> None:
    (tmp_path / LIVE).mkdir()
    log = TrainingLog(tmp_path)
    log.step(1)
    assert (tmp_path / LIVE).is_dir()


def test_a_process_that_is_gone_is_known_from_another_of_its_number(tmp_path: Path) -> None:
    TrainingLog(tmp_path)
    (moment,) = Follower(tmp_path).read()
    assert moment.here()
    assert moment.alive()
    assert not replace(moment, born=moment.born - 100).alive(), "the number is another process's now"
    assert not replace(moment, process=2**22 + 1).alive()
    elsewhere = replace(moment, host="elsewhere", process=2**22 + 1)
    assert elsewhere.alive(), "nobody here can tell"
    assert not elsewhere.here()


def test_lines_are_plain_json(tmp_path: Path) -> None:
    TrainingLog(tmp_path, name="mine").write(loss=0.5, validation={"accuracy": 0.9})
    last = json.loads((tmp_path / LIVE).read_text().splitlines()[-1])
    assert (last["loss"], last["validation"]) == (0.5, {"accuracy": 0.9})
