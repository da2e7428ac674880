"""Scale the engine processes of a server by load: fewer when there is little to do, more when requests wait.

It acts only on signals that agree, each in consecutive samples: utilisation of all devices, the replicas' own busy
time, the queue, and, with `needs_alert`, an alert of performance_dashboard's rules (51) besides. What is missing or
old is no signal. Replicas are at most halved at once, a cool-down follows each change, and the bounds hold. Alerts
only wake the controller: one that comes twice, late or out of order changes nothing.

Use when: the load varies by more than the replicas that the peak needs can idle for free.
Avoid when: one engine process is enough at all times; or another system scales whole servers.
Reference: Burns et al. 2016, Borg, Omega, and Kubernetes, ACM Queue 14(1), on reconciling what is with what should be.

Example:
    >>> day = simulated_day(Scaling(max_replicas=4), most=4)
    >>> day.replica_share < 0.6, day.late_share < 0.01
    (True, True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fulldeck.instruction import Evidence, Instruction, instruction
from fulldeck.monitoring.scaling import CARRIED, Scaling
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
