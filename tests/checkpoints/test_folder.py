"""Checkpoints in a folder: whole or not there, rotated, believed only by their hash."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import nn

from fulldeck.checkpoints.folder import CheckpointFolder
from fulldeck.checkpoints.host_copy import HostCopy
from fulldeck.checkpoints.shards import read_state, share_out, write_manifest, write_shard
from fulldeck.checkpoints.store import LocalFolder, ObjectStore, store_at
from fulldeck.errors import BadInput
from fulldeck.instructions.training.fault_tolerant_checkpointing import load_newest


def state(number: float) -> dict[str, Any]:
    return {"model": {"weight": torch.full((64, 8), number)}, "step": number, "names": ("a", None)}


def filled(where: Path | str, steps: tuple[int, ...], **settings: Any) -> None:
    with CheckpointFolder(where, **settings) as kept:
        for step in steps:
            kept.save(step, state(step), {"validation_loss": abs(step - 21)})


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def value(found: tuple[int, Any] | None) -> tuple[int, float]:
    assert found is not None
    step, read = found
    assert read["names"] == ("a", None)
    assert torch.equal(read["model"]["weight"], torch.full((64, 8), float(read["step"])))
    return step, read["step"]


@pytest.mark.parametrize("where", ["folder", "memory://folder/deep", "file"])
def test_what_was_saved_is_found_again_at_each_kind_of_place(tmp_path: Path, where: str) -> None:
    place = {"folder": tmp_path / "kept", "file": f"file://{tmp_path}/kept"}.get(where, where)
    filled(place, (10, 20, 30))
    assert value(load_newest(place)) == (30, 30)
    with CheckpointFolder(place) as kept:
        assert kept.steps() == [20, 30]
        assert value(kept.newest()) == (30, 30)
        kept.save(40, state(40))
    assert value(load_newest(place)) == (40, 40)


def test_only_the_last_and_the_best_stay_and_no_other_file(tmp_path: Path) -> None:
    filled(tmp_path, (10, 20, 30, 40, 50), keep_last=1, keep_best=2)
    with CheckpointFolder(tmp_path) as kept:
        assert kept.steps() == [20, 30, 50]
    folders = [
        f"step-{step:08d}/{file}"
        for step in kept.steps()
        for file in ("manifest.json", "shard-0.safetensors")
    ]
    assert all_files(tmp_path) == [".lock", *folders]


def test_a_metric_that_is_no_number_is_never_best(tmp_path: Path) -> None:
    with CheckpointFolder(tmp_path, keep_last=1, keep_best=1, metric="accuracy") as kept:
        for step, accuracy in enumerate((0.5, float("nan"), 0.9, 0.7, 0.1), 1):
            kept.save(step, state(step), {"accuracy": accuracy})
        kept.wait()
        assert kept.steps() == [3, 5]


def test_training_goes_on_while_it_is_written_and_what_it_changes_is_not_in_it(tmp_path: Path) -> None:
    model = nn.Linear(512, 512)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with CheckpointFolder(tmp_path) as kept:
        kept.save(1, model.state_dict())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        kept.wait()
        assert len(kept.stalls) == 1
        assert kept.bytes > 4 * 512 * 512
    _, saved = load_newest(tmp_path)
    assert all(torch.equal(saved[name], tensor) for name, tensor in before.items())


def test_copies_use_the_same_memory_again() -> None:
    copy, tensors = HostCopy(), {"a": torch.ones(4), "b": torch.ones(2, 3).T}
    first = copy.take(tensors)["a"]
    tensors["a"] = torch.full((4,), 2.0)
    again = copy.take(tensors)
    assert again["a"].data_ptr() == first.data_ptr()
    assert again["a"].tolist() == [2.0] * 4
    assert again["b"].is_contiguous()
    assert copy.take({"a": torch.ones(5)})["a"].shape == (5,)


# What can go wrong -----------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "flipped": (lambda folder: flip(folder / "shard-0.safetensors"), "shard 0 does not match its hash"),
    "truncated": (
        lambda folder: os.truncate(folder / "shard-0.safetensors", 99),
        "shard 0 has 99 bytes instead of",
    ),
    "missing": (lambda folder: (folder / "shard-0.safetensors").unlink(), "shard 0 is missing"),
    "manifest": (lambda folder: flip(folder / "manifest.json"), "manifest"),
    "empty": (lambda folder: os.truncate(folder / "manifest.json", 0), "manifest.json is no manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_taken(tmp_path: Path, damage: str) -> None:
    filled(tmp_path, (10, 20))
    do, words = DAMAGES[damage]
    do(tmp_path / "step-00000020")
    with CheckpointFolder(tmp_path) as kept:
        assert value(kept.newest()) == (10, 10)
        assert len(kept.notes) == 1
        assert words in kept.notes[0]
        assert kept.notes[0].endswith("; went on from step 10")
        kept.save(20, state(20))  # what is damaged does not stand in its way
    assert value(load_newest(tmp_path)) == (20, 20)


def test_where_none_is_whole_it_says_so(tmp_path: Path) -> None:
    filled(tmp_path, (10, 20))
    for folder in tmp_path.glob("step-*"):
        flip(folder / "shard-0.safetensors")
    with (
        pytest.raises(BadInput, match=r"no checkpoint is whole: .*step-00000020 is damaged.*step-00000010"),
        CheckpointFolder(tmp_path) as kept,
    ):
        kept.newest()
    with pytest.raises(BadInput, match="there is no checkpoint in"):
        load_newest(tmp_path / "nowhere")


class Poison:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["POISONED"],)


@pytest.mark.parametrize("pickled", [True, False])
def test_a_poisoned_file_with_right_hashes_is_refused_and_nothing_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bool
) -> None:
    executed = tmp_path / "executed"
    monkeypatch.setenv("POISONED", str(executed))
    store = LocalFolder(tmp_path / "kept")

    def write(path: Path) -> None:
        path.write_bytes(pickle.dumps(Poison())) if pickled else torch.save({"a": Poison()}, path)

    shard = store.write_with("step-00000010/shard-0.safetensors", write)
    write_manifest(store, "step-00000010", 10, {}, [shard])
    with pytest.raises(BadInput, match="holds something else than a state"):
        load_newest(tmp_path / "kept")
    assert not executed.exists()


@pytest.mark.parametrize(
    "tree", [{"tensor": "no such"}, {"list": 3}, {"permuted": ["a", 7]}, {}, {"a": 1, "b": 2}]
)
def test_a_tree_that_makes_no_sense_is_refused(tmp_path: Path, tree: Any) -> None:
    store = LocalFolder(tmp_path)
    shard = write_shard(store, "step-00000010", 0, tree, {"a": torch.ones(2)}, {})
    write_manifest(store, "step-00000010", 10, {}, [shard])
    with pytest.raises(BadInput, match="holds something else than a state"):
        read_state(store, "step-00000010")


def test_a_manifest_cannot_point_elsewhere(tmp_path: Path) -> None:
    filled(tmp_path, (10,))
    manifest = json.loads((tmp_path / "step-00000010/manifest.json").read_text())
    assert set(manifest["content"]["shards"][0]) == {"bytes", "sha256"}


@pytest.mark.parametrize("full_at", ["shard", "manifest"])
def test_on_a_full_disk_the_last_one_stays_and_nothing_half_written(tmp_path: Path, full_at: str) -> None:
    # A file-size limit fails a write as a full disk does; test_pipeline.py has a full disk for a whole run.
    filled(tmp_path, (10, 20))
    before = all_files(tmp_path)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            limit = 1000 if full_at == "shard" else 100
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            with CheckpointFolder(tmp_path) as kept:
                kept.newest()
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                small = {} if full_at == "manifest" else state(30)
                kept.save(30, small)
                kept.wait()
        except BadInput as error:
            code = 0 if "file too large" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all_files(tmp_path) == before
    assert value(load_newest(tmp_path)) == (20, 20)


def test_two_trainings_in_one_folder_are_refused_in_one_line(tmp_path: Path) -> None:
    with CheckpointFolder(tmp_path) as kept:
        with pytest.raises(BadInput) as refused, CheckpointFolder(tmp_path):
            pass
        assert str(refused.value) == (
            f"another training keeps its checkpoints in {tmp_path}; wait for its end, or name another folder"
        )
        kept.save(1, state(1))
    filled(tmp_path, (2,))


def test_in_an_object_store_the_newer_training_takes_over() -> None:
    with CheckpointFolder("memory://shared") as old:
        old.save(1, state(1), wait=True)
        with CheckpointFolder("memory://shared") as new:
            assert value(new.newest()) == (1, 1)
            new.save(2, state(2), wait=True)
        with pytest.raises(
            BadInput, match=r"another training has begun .* in memory://shared; this one stops"
        ):
            old.save(3, state(3), wait=True)
    assert value(load_newest("memory://shared")) == (2, 2)


def test_an_unknown_url_is_refused() -> None:
    with pytest.raises(
        BadInput, match="checkpoints cannot be kept at nowhere://x: Protocol not known: nowhere"
    ):
        store_at("nowhere://x")


def test_what_a_crash_left_is_removed_and_counts_for_nothing(tmp_path: Path) -> None:
    filled(tmp_path, (10, 20))
    half = tmp_path / "step-00000030"
    half.mkdir()
    (half / ".shard-0.safetensors.abcdefgh.part").write_bytes(b"half")
    (half / "shard-1.safetensors").write_bytes(b"all of it")
    assert value(load_newest(tmp_path)) == (20, 20)
    with CheckpointFolder(tmp_path) as kept:
        assert kept.steps() == [10, 20]
    assert not half.exists()


def test_a_new_training_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    filled(tmp_path, (10, 20))
    with (
        CheckpointFolder(tmp_path) as kept,
        pytest.raises(BadInput, match=r"step 5 lies before .* is of step 20"),
    ):
        kept.save(5, state(5))


def test_no_clock_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, (10, 20))
    for age, path in enumerate(sorted(tmp_path.rglob("*"))):  # the newest seems to be the oldest
        os.utime(path, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with CheckpointFolder(tmp_path) as kept:
        assert value(kept.newest()) == (20, 20)
        kept.save(30, state(30))
    assert value(load_newest(tmp_path)) == (30, 30)


def test_tensors_are_shared_out_evenly_and_each_goes_to_one_rank() -> None:
    tensors = {str(n): torch.empty(size) for n, size in enumerate((7, 5, 4, 3, 1))}
    shares = [share_out(tensors, rank, 2)[0] for rank in (0, 1)]
    assert sorted(name for share in shares for name in share) == sorted(tensors)
    assert [sum(tensor.numel() for tensor in share.values()) for share in shares] == [10, 10]


def test_the_memory_store_is_an_object_store() -> None:
    assert isinstance(store_at("memory://x"), ObjectStore)
    assert isinstance(store_at("file:///x"), LocalFolder)
    assert fsspec.filesystem("memory") is not None
