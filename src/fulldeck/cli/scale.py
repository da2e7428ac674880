"""`fulldeck scale DEPLOYMENT`: pods by load, with the rules that a server scales its own engine processes by."""

from __future__ import annotations

import json as json_module
import time
from typing import Annotated

import typer

from fulldeck.cli.output import Json, LogJson, Quiet, log
from fulldeck.errors import RunFailed

EXAMPLE = "fulldeck scale digits --prometheus http://prometheus:9090 --model digits --replicas 1:8"


def command(
    deployment: Annotated[
        str, typer.Argument(help="Name of a Deployment of Kubernetes whose pods are servers.")
    ],
    prometheus: Annotated[
        str, typer.Option(metavar="URL", help="Prometheus, which scrapes the pods' /metrics.")
    ],
    model: Annotated[str, typer.Option(help="Name of the model that the pods serve.")],
    replicas: Annotated[str, typer.Option(metavar="MIN:MAX", help="Fewest and most pods.")] = "1:4",
    namespace: Annotated[str, typer.Option(help="Namespace of the Deployment.")] = "default",
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="Between two looks; as often as Prometheus scrapes.")
    ] = 5.0,
    cooldown: Annotated[
        float, typer.Option(metavar="SECONDS", help="After a change, in which no pod is removed.")
    ] = 60.0,
    json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Scale a Deployment of Kubernetes by load, until interrupted: fewer pods when idle, more when requests wait.

    It acts on signals of Prometheus that agree, each in consecutive samples and of all pods, never on missing or
    old ones; at most halves or doubles, and keeps to the bounds. What Prometheus or the cluster does not answer
    changes nothing. With --json, each decision is one line on standard output.

    Needs the extra kubernetes, and the verbs get and patch on deployments/scale.
    """
    from fulldeck.monitoring.kubernetes_deployment import KubernetesDeployment
    from fulldeck.monitoring.prometheus_load import PrometheusLoad
    from fulldeck.monitoring.scaling import Controller, Scaling

    scaling = Scaling(interval_s=interval, cooldown_s=cooldown).replace(**Scaling.bounds(replicas))
    loads = PrometheusLoad(prometheus, model, interval)
    pods = KubernetesDeployment(deployment, namespace)
    controller = Controller(scaling)
    loads.read(pods.replicas, time.time())  # so that what is wrong from the start ends it, and is said
    told = None
    while True:
        time.sleep(interval)
        try:
            before, now = pods.replicas, time.time()
            controller.see(loads.read(before, now))
            if (wanted := controller.decide(now, before)) != before:
                pods.resize(wanted)
        except RunFailed as error:
            log.warning("%s", error)
            continue
        decision = controller.log[-1]
        if decision is told:
            continue
        told = decision
        change = f"{before} pods" if wanted == before else f"{wanted} pods in place of {before}"
        if json:
            typer.echo(json_module.dumps(decision.to_json()))
        elif log_json:
            log.info("%s: %s: %s", deployment, change, decision.reason, extra=decision.to_json())
        elif not quiet:
            typer.echo(f"{change}: {decision.reason}")
