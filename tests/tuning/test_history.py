"""The study file: a search goes on from it, whatever moment it was killed at."""

from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.tuning.history import History


def written(path: Path) -> History:
    history = History("abc", path)
    history.tell(rungs=[0.5, 1])
    history.add({"x": 1}, "key", "sampled")
    history.reached("key", {"accuracy": 0.5})
    history.elapsed = 12.5
    history.finish(0, {"accuracy": 0.7}, 3.0)
    history.add({"x": 2}, "other", "sampled")
    history.fail(1, "it is broken")
    history.measure(0, 7, {"accuracy": 0.6})
    return history


def test_all_of_it_comes_back(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), History("abc", tmp_path / "a")
    assert (one.trials, one.trainings, one.facts) == (other.trials, other.trainings, other.facts)
    assert other.elapsed == 12.5


def test_a_line_that_was_being_written_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a"
    written(path)
    whole = path.read_bytes()
    for cut in range(len(whole) - 1, len(whole) - 40, -7):
        path.write_bytes(whole[:cut])
        history = History("abc", path)
        assert history.trials[1].error == "it is broken"
        assert not history.trials[0].finals
        history.measure(0, 8, {"accuracy": 0.5})
        assert History("abc", path).trials[0].finals == {8: {"accuracy": 0.5}}


def test_a_study_of_another_recipe_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "a")
    with pytest.raises(
        BadInput, match="is the study of another recipe or goal; start a search without --resume"
    ):
        History("def", tmp_path / "a")


def test_a_damaged_study_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    written(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "{}\n", *lines[3:]]))
    with pytest.raises(BadInput, match=r"the study file is damaged.*a:3"):
        History("abc", path)
