"""A Deployment of Kubernetes whose pods are servers: how many there should be, by its scale subresource."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fulldeck.errors import BadInput, RunFailed, extra

TIMEOUT = 10.0
"""Seconds in which the API server answers."""


class KubernetesDeployment:
    """`name` in `namespace`, of the cluster that this process runs in, or that the kubeconfig names.

    Every call raises BadInput if there is none or it may not be scaled, RunFailed if the cluster does not answer.
    """

    def __init__(self, name: str, namespace: str) -> None:
        kubernetes: Any = extra("kubernetes", "kubernetes")
        self.name, self.namespace = name, namespace
        self._refused = kubernetes.client.ApiException
        try:
            try:
                kubernetes.config.load_incluster_config()
            except kubernetes.config.ConfigException:
                kubernetes.config.load_kube_config()
        except (kubernetes.config.ConfigException, OSError) as error:
            raise BadInput(
                f"no cluster is known here, neither by a pod's account nor by a kubeconfig: {error}"
            ) from None
        settings = kubernetes.client.Configuration.get_default_copy()
        settings.retries = 0
        self._api = kubernetes.client.AppsV1Api(kubernetes.client.ApiClient(settings))

    @property
    def replicas(self) -> int:
        """Pods that there should be."""
        with self._answering("read"):
            scale = self._api.read_namespaced_deployment_scale(
                self.name, self.namespace, _request_timeout=TIMEOUT
            )
        return int(scale.spec.replicas or 0)

    def resize(self, replicas: int) -> None:
        """Have so many pods."""
        with self._answering("patch"):
            self._api.patch_namespaced_deployment_scale(
                self.name, self.namespace, {"spec": {"replicas": replicas}}, _request_timeout=TIMEOUT
            )

    @contextmanager
    def _answering(self, verb: str) -> Iterator[None]:
        from urllib3.exceptions import HTTPError

        which = f"deployment {self.name} in namespace {self.namespace}"
        try:
            yield
        except self._refused as error:
            if error.status == 404:
                raise BadInput(f"there is no {which}") from None
            if error.status in (401, 403):
                raise BadInput(
                    f"{which} may not be scaled from here; give this account {verb} on deployments/scale"
                ) from None
            raise RunFailed(f"{which}: the cluster answers {error.status}: {_message(error.body)}") from None
        except HTTPError as error:
            raise RunFailed(f"the cluster does not answer: {error}") from None


def _message(body: str | bytes | None) -> str:
    try:
        return str(json.loads(body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return "without a reason"
