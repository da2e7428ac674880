"""One package as it is being served: what turns requests into tensors, their queue, and the engine processes."""

from __future__ import annotations

from collections.abc import Callable

from fulldeck.monitoring.devices import cores
from fulldeck.package import Package
from fulldeck.service import Batching, Limits, Serving
from fulldeck.serving.batch_times import BatchTimes
from fulldeck.serving.engine_worker import EngineWorker
from fulldeck.serving.metrics import ServerMetrics
from fulldeck.serving.predict import Prediction
from fulldeck.serving.protocol import InferenceCodec
from fulldeck.serving.queue import JobQueue
from fulldeck.serving.rate_limit import RateLimit
from fulldeck.serving.supervisor import Supervisor
from fulldeck.serving.worker_process import WorkerProcess


class Version:
    """All that belongs to one package, so that a request never meets another package's model.

    `replicas` engine processes are started, and never more than `most`. `changed` is called when the package
    was replaced in its folder. `make` makes an engine of what `WorkerProcess` takes.
    """

    def __init__(
        self,
        package: Package,
        serving: Serving,
        metrics: ServerMetrics,
        *,
        replicas: int,
        most: int,
        changed: Callable[[], object],
        make: Callable[..., EngineWorker] = WorkerProcess,
    ) -> None:
        self.package = package
        service = package.service
        self.form = package.model(serving.engine)
        self.platform = f"{self.form.engine}_{self.form.kind}"
        batching, limits = Batching.of(service.carried), Limits.of(service.carried)
        shapes = (spec.shape for spec in (*service.inputs, *service.outputs))
        joinable = batching is not None and all(shape[:1] == (-1,) for shape in shapes)
        self.queue = JobQueue(
            serving.queue,
            serving.max_batch,
            largest=min(batching.max_batch, serving.max_batch) if batching and joinable else 1,
            times=BatchTimes(),
            longest_wait=None if limits is None else (limits.wait_ms or 0) / 1000,
        )
        self.rate = RateLimit(limits.rate_per_s, limits.burst) if limits and limits.rate_per_s else None
        self.codec = InferenceCodec(service, serving.max_batch)
        self.prediction = Prediction(service, package.encoder(), self.queue)
        self.supervisor = Supervisor(
            package,
            self.queue,
            metrics,
            workers=replicas,
            engine=serving.engine,
            threads=threads_each(serving, most),
            stall=serving.stall_ms / 1000,
            changed=changed,
            make=make,
        )

    async def retire(self) -> None:
        """Answer what has come, then end."""
        await self.prediction.finish()
        await self.supervisor.finish()

    async def stop(self) -> None:
        """End at once."""
        self.prediction.close()
        await self.supervisor.stop()


def threads_each(serving: Serving, most: int) -> int:
    """Threads of each of at most so many engines: as said, or their share of this machine's cores."""
    return serving.threads or max(1, cores() // most)
