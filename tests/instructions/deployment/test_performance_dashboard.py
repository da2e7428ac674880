from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import fulldeck as fd
from fulldeck.instructions.deployment.model_packaging import ModelPackaging
from fulldeck.instructions.deployment.performance_dashboard import (
    PerformanceDashboard,
    count_step,
    model_traffic,
    watch_steps,
)
from fulldeck.monitoring.settings import Monitoring
from fulldeck.monitoring.training import Follower
from fulldeck.package import Package
from fulldeck.service import Service
from fulldeck.training.loader import as_loader, as_tensors


def batches(count):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 32, generator=generator), torch.randint(2, (16,), generator=generator))
        for _ in range(count)
    ]


def loop(steps=6, instructions=()):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2))
    return fd.TrainingLoop(
        model, batches(steps), nn.functional.cross_entropy, instructions=instructions, device="cpu"
    )


def test_a_linear_layer_moves_its_weights_once_and_its_rows_each() -> None:
    inputs = torch.randn(8, 100)
    found = model_traffic(nn.Linear(100, 50, bias=False), inputs[:4], inputs)
    assert found.batch == 4 * 100 * 50
    assert found.row == 4 * (100 + 50)


def test_of_one_number_of_rows_all_counts_as_the_rows() -> None:
    inputs = torch.randn(4, 100)
    found = model_traffic(nn.Linear(100, 50, bias=False), inputs, inputs)
    assert (found.batch, found.row) == (0, (4 * 100 * 50 + 4 * 4 * 150) / 4)


def test_the_package_carries_thresholds_and_traffic(exported, quantised, tmp_path: Path) -> None:
    dashboard = PerformanceDashboard(latency_ms=20, samples=5)
    carried = {}
    for name, candidate in (("fp32", exported), ("int8", quantised)):
        service = dashboard.configure(Service(candidate, "digits", tmp_path / name))
        (tmp_path / name).mkdir()
        packed = ModelPackaging().configure(service)
        assert packed.package is not None
        carried[name] = Package.open(packed.package).service.carried
    assert Monitoring(**carried["fp32"]["monitoring"]) == Monitoring(latency_ms=20, samples=5)
    fp32, int8 = carried["fp32"]["traffic"], carried["int8"]["traffic"]
    assert fp32["batch"] == exported.artifact.bytes
    assert int8["batch"] == quantised.artifact.bytes < fp32["batch"]
    assert int8["row"] == fp32["row"] / 4
    values = 4 * 64 * 2  # an image of 8 x 8 is read, and at least as much is written
    assert fp32["row"] > values


def test_an_own_module_is_profiled_too(trained, tmp_path: Path) -> None:
    class Own(nn.Module):
        def forward(self, input):
            return input.flatten(1)[:, :10] * 2

    service = PerformanceDashboard().configure(Service(replace(trained, module=Own()), "own", tmp_path))
    assert service.carried["traffic"]["row"] > 0
    example = as_tensors(trained.example(4))
    assert model_traffic(Own(), example, example).row > 0


def test_a_step_is_counted_and_stays_the_same() -> None:
    plain, counted = loop(), loop(instructions=[PerformanceDashboard()])
    assert counted.moved_bytes is None
    for one in (plain, counted):
        one.fit()
    assert plain.moved_bytes is None
    parameters = sum(value.numel() for value in counted.model.parameters())
    assert counted.moved_bytes > 4 * parameters * 6, "weights, gradients and two moments, read and written"
    assert plain.losses.values == counted.losses.values
    for one, other in zip(plain.model.parameters(), counted.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_twice_the_rows_move_more() -> None:
    def moved(rows: int) -> float:
        one = loop()
        one.loader = as_loader(
            [(inputs.repeat(rows, 1), targets.repeat(rows)) for inputs, targets in batches(5)]
        )
        count_step(one)
        one.fit()
        assert one.moved_bytes is not None
        return one.moved_bytes

    assert moved(1) < moved(2) < 2 * moved(1)


def test_what_is_compiled_is_not_counted() -> None:
    pytest.importorskip("torch._dynamo")
    one = loop()
    one.wrap_model(lambda module: torch.compile(module, backend="eager"))
    count_step(one)
    one.fit()
    assert one.moved_bytes is None
    torch.compiler.reset()


def test_an_own_loop_is_watched(tmp_path: Path) -> None:
    log = watch_steps(tmp_path / "new", name="mine", steps=3, epochs=1)
    for loss in (0.9, 0.5, 0.3):
        log.step(32, loss)
    log.write(status="finished", validation={"accuracy": 0.9})
    last = Follower(tmp_path / "new").read()[-1]
    assert (last.name, last.samples, last.done, last.status) == ("mine", 96, 3, "finished")
    assert last.validation == {"accuracy": 0.9}
