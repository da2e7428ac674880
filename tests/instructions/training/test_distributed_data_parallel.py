"""22: what a recipe may say of it, what is refused, and a run of two processes. Parity is in tests/distributed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction, Situation
from fulldeck.instructions.training.distributed_data_parallel import DistributedDataParallel
from fulldeck.instructions.training.distributed_data_parallel.synchronised_statistics import (
    synchronise_statistics,
)
from fulldeck.instructions.training.fully_sharded_training import FullyShardedTraining
from fulldeck.planner import make_plan
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import make_recipe
from fulldeck.run_folder import RunFolder

CPU = Situation("tensor", "classification", "cpu")


def test_the_block_of_a_recipe_is_the_instruction(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "workload: digits\n"
        "distributed: {backend: gloo, init_method: 'env://', gpu_ids: [], find_unused_parameters: true}\n"
    )
    (entry,) = read_recipe(file).entries
    assert entry.instruction == DistributedDataParallel(
        backend="gloo", init_method="env://", find_unused_parameters=True
    )


def test_it_excludes_sharding() -> None:
    with pytest.raises(BadInput, match="exclude each other: both spread the training over processes"):
        make_plan(make_recipe("digits", [DistributedDataParallel(), FullyShardedTraining()]), CPU)


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        (DistributedDataParallel(backend="nccl"), "nccl"),
        (DistributedDataParallel(gpu_ids=(0, 1)), "gpu_ids names GPUs, and this training is on the CPU"),
        (DistributedDataParallel(compression="powersgd"), "aborts on gloo.*write compression: bfloat16"),
        (FullyShardedTraining(cpu_offload=True), "is there already; leave it out"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_in_the_plan(instruction: Instruction, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make_plan(make_recipe("digits", [instruction]), CPU)


def test_statistics_of_all_processes_are_put_into_the_model_and_taken_out_again() -> None:
    """What SyncBatchNorm computes is torch's, and needs a GPU; this is what goes on around it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.BatchNorm2d(4))
    plain, images = [model[1][0], model[2]], torch.randn(5, 1, 8, 8)
    names = list(model.state_dict())
    undo = synchronise_statistics(model)
    assert [type(one) for one in (model[1][0], model[2])] == [nn.SyncBatchNorm] * 2
    assert list(model.state_dict()) == names
    assert model[1][0].weight is plain[0].weight
    synchronised = model.eval()(images)
    undo()
    assert [model[1][0], model[2]] == plain
    assert not model[2].training
    assert torch.equal(model(images), synchronised)


def test_a_job_that_is_started_anew_finds_its_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "r", "recipe", job="7")
    run.write_result({"status": "running"})
    assert RunFolder.of_job(tmp_path, "r", "recipe", "7", False) == run
    assert RunFolder.of_job(tmp_path, "r", "recipe", "8", False) is None
    assert RunFolder.of_job(tmp_path, "r", "another", "7", False) is None
    assert RunFolder.of_job(tmp_path, "r", "recipe", None, True) == run
    run.write_result({"status": "finished"})
    assert RunFolder.of_job(tmp_path, "r", "recipe", "7", False) is None


def test_two_processes_write_one_run(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("workload: breast_cancer\ntrain: {epochs: 2, device: cpu, threads: 1}\n")
    command = [sys.executable, "-m", "fulldeck", "run", str(recipe), "--nproc", "2", "--json"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "runs")], capture_output=True, text=True, timeout=200, check=True
    )
    result = json.loads(done.stdout)
    (report,) = result["instructions"]
    assert report["name"] == "distributed_data_parallel"
    assert report["changes"]["communication_ms"]["after"] > 0
    assert any("dropout draws other masks" in note for note in result["notes"])
    (run,) = (path for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
    assert (run / "report.html").is_file()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
