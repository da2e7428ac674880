import os
import signal
from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.instructions.deployment.model_packaging import ModelPackaging
from fulldeck.instructions.deployment.replica_autoscaling import ReplicaAutoscaling, wanted_replicas
from fulldeck.monitoring.scaling import Load, Scaling
from fulldeck.monitoring.simulated_day import simulated_day
from fulldeck.package import Package
from fulldeck.service import Service, Serving
from tests.serving.servers import eventually, running


def test_a_server_scales_as_its_package_says(exported, tmp_path: Path) -> None:
    scaling = ReplicaAutoscaling(interval_s=0.3, cooldown_s=0.0, max_replicas=2)
    service = Service(exported, "digits", tmp_path, Serving(engine="onnxruntime", workers=2, threads=1))
    packed = ModelPackaging().configure(scaling.configure(service))
    assert packed.package is not None
    carried = Package.open(packed.package).service.carried["scaling"]
    assert Scaling(**carried) == Scaling(interval_s=0.3, cooldown_s=0.0, max_replicas=2)
    with running(packed.package) as server:
        assert len(server.workers) == 2
        eventually(lambda: len(server.workers) == 1)
        (last,) = server.workers
        os.kill(last, signal.SIGKILL)
        eventually(lambda: len(server.workers) == 1 and server.workers != [last])


def test_a_day_takes_fewer_replicas_and_nothing_is_late() -> None:
    fixed, scaled = simulated_day(None, most=4), simulated_day(Scaling(), most=4)
    assert (fixed.replica_share, fixed.changes, fixed.late_share) == (1.0, 0, 0.0)
    assert scaled.replica_share < 0.55
    assert scaled.late_share < 0.001
    assert scaled.changes <= 12, "one wave, and no oscillation"
    assert scaled.cost < 0.6 * fixed.cost


@pytest.mark.parametrize("seed", range(1, 4))
def test_other_days_are_no_worse(seed: int) -> None:
    day = simulated_day(Scaling(), most=4, seed=seed)
    assert day.replica_share < 0.55
    assert day.late_share < 0.001


def test_a_decision_for_a_service_of_ones_own() -> None:
    full = [Load(at, 0.9, 0.95, 3.0, 2, True) for at in (5.0, 10.0)]
    more = wanted_replicas(full, 2, max_replicas=8)
    assert (more.before, more.after) == (2, 4)
    assert more.reason == "replicas are busy 95% of their time and 3.0 requests wait"
    unknown = [Load(at, None, 0.1, 0.0, 2, True) for at in (5.0, 10.0, 15.0)]
    assert wanted_replicas(unknown, 2).after == 2
    with pytest.raises(BadInput, match="there must be a load"):
        wanted_replicas([], 2)


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(BadInput, match="min_replicas must be at most max_replicas, got 5 and 4"):
        ReplicaAutoscaling(min_replicas=5)
