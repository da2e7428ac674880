"""Scale the engine processes of a server by load: fewer when there is little to do, more when requests wait.

It acts only on signals that agree, each in consecutive samples: utilisation of all devices, the replicas' own busy
time, the queue, and, with `needs_alert`, an alert of performance_dashboard's rules (51) besides. What is missing or
old is no signal. Replicas are at most halved at once, a cool-down follows each change, and the bounds hold. Alerts
only wake the controller: one that comes twice, late or out of order changes nothing. `fulldeck serve --on ray` scales
engines on a cluster of Ray, `fulldeck scale` pods of Kubernetes, by the same rules.

Use when: the load varies by more than the replicas that the peak needs can idle for free.
Avoid when: one engine process is enough at all times; or another system scales the same.
Reference: Burns et al. 2016, Borg, Omega, and Kubernetes, ACM Queue 14(1), on reconciling what is with what should be.

Example:
    >>> from fulldeck.monitoring.scaling import Load
    >>> moments = (0.0, 5.0, 10.0)
    >>> idle = [Load(at, utilisation=0.1, busy=0.1, queue=0.0, replicas=4, whole=True) for at in moments]
    >>> decision = wanted_replicas(idle, 4)  # of your own service
    >>> decision.after, decision.reason
    (2, 'utilisation was under 30% in 3 samples, no queue')
    >>> wanted_replicas(idle[:2], 4).after
    4
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fulldeck.errors import BadInput
from fulldeck.instruction import Evidence, Instruction, instruction
from fulldeck.monitoring.scaling import CARRIED, Controller, Decision, Load, Scaling
from fulldeck.monitoring.simulated_day import simulated_day
from fulldeck.service import Service

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome


@instruction(
    45,
    stage="deployment",
    touches={"service"},
    evidence=Evidence(
        workload="digits",
        metric="day_cost",
        expect="<= 0.7x",
        beside=("onnx_export", "model_packaging"),
    ),
)
class ReplicaAutoscaling(Instruction, Scaling):
    """Its parameters are those of `fulldeck.monitoring.scaling.Scaling`."""

    def prove(self, outcome: Outcome) -> float:
        """day_cost: replicas over a simulated day, of those that its peak needs; time with late work costs all."""
        carried = outcome.service.carried.get(CARRIED)
        return simulated_day(None if carried is None else Scaling(**carried), self.max_replicas).cost

    def configure(self, service: Service) -> Service:
        return service.carrying(CARRIED, {name: getattr(self, name) for name in Scaling.model_fields})


def wanted_replicas(loads: Sequence[Load], replicas: int, **settings: Any) -> Decision:
    """How many replicas there should be, being `replicas` now, and why, after samples of a service's load.

    `loads` are `interval_s` apart, the newest last; `settings` are those of
    `fulldeck.monitoring.scaling.Scaling`. Who asks again and again, and wants the cool-down between changes,
    keeps a `fulldeck.monitoring.scaling.Controller`.

    Raises BadInput for a setting out of range, and without a load.
    """
    if not loads:
        raise BadInput("there must be a load to decide from")
    controller = Controller(Scaling(**settings))
    for load in loads:
        controller.see(load)
    controller.decide(loads[-1].at, replicas)
    return controller.log[-1]
