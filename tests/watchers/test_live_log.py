"""What a real run tells those who watch it."""

from pathlib import Path
from typing import Any

import pytest

from fulldeck.errors import BadInput
from fulldeck.monitoring.training import LIVE, Follower, Moment
from fulldeck.pipeline.run import run
from fulldeck.recipe.recipe import Recipe, make_recipe
from fulldeck.watchers.watcher import Watcher


def recipe(**train: Any) -> Recipe:
    return make_recipe("breast_cancer", [], train={"epochs": 3, "threads": 1, "device": "cpu", **train})


def moments(folder: Path) -> list[Moment]:
    return Follower(folder).read()


def test_a_run_tells_how_it_went(tmp_path: Path) -> None:
    result = run(recipe(), out=tmp_path)
    found = moments(Path(result["run"]))
    stages = list(dict.fromkeys(moment.stage for moment in found))
    assert stages == ["", "load", "prepare", "train", "optimise", "evaluate", "configure", "rehearse"]
    assert {moment.name for moment in found} == {"breast_cancer"}
    last = found[-1]
    assert (last.status, last.epoch, last.epochs) == ("finished", 2, 3)
    assert last.step == last.steps == last.done == result["training"]["steps"]
    history = result["training"]["history"]
    assert last.validation["loss"] == pytest.approx(history[-1]["validation_loss"])
    assert set(last.validation) >= {"loss", "accuracy"}
    assert last.loss is not None
    assert last.buckets[-1] == last.done - 3, "the first step of an epoch has none before it"


def test_a_run_that_fails_or_is_stopped_says_so(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="not finite"):
        run(recipe(learning_rate=1e30), out=tmp_path)
    assert moments((tmp_path / "latest").resolve())[-1].status == "failed"

    class Stops(Watcher):
        def recorded(self, values: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe(), out=tmp_path, watcher=Stops())
    folder = (tmp_path / "latest").resolve()
    assert moments(folder)[-1].status == "interrupted"
    run(recipe(), out=tmp_path, resume=True)
    assert moments(folder)[-1].status == "finished", "in the same file, after what was there"
    assert len({moment.process for moment in moments(folder)}) == 1


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        run(
            make_recipe({"kind": "table", "path": str(tmp_path / "absent.csv"), "target": "x"}, []),
            out=tmp_path,
        )
    assert not list(tmp_path.rglob(LIVE))


def test_where_it_cannot_be_written_the_run_goes_on(tmp_path: Path) -> None:
    class Blocks(Watcher):
        def training(self, loop: Any) -> None:
            (folder,) = (path for path in tmp_path.iterdir() if not path.is_symlink())
            (folder / LIVE).unlink()
            (folder / LIVE).mkdir()

    assert run(recipe(), out=tmp_path, watcher=Blocks())["status"] == "finished"
