"""The model that is served: loaded, exchanged for a newer package without a lost request, unloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from fulldeck.errors import BadInput, RunFailed
from fulldeck.logs import tree
from fulldeck.package import Package
from fulldeck.package.reference import read_reference
from fulldeck.parity import agreement
from fulldeck.serving.http import Refusal
from fulldeck.serving.version import Version

COMPARED_SECONDS = 10.0
"""Time for the comparison of the new version's answers with those of the old one."""

log = tree.getChild("serving")


class Served:
    """What requests and watchers see of the version that is served at the moment, and how it is exchanged.

    `read` opens the package in the folder that is served, `make` makes a version of it with so many replicas.
    """

    def __init__(
        self,
        first: Package,
        read: Callable[[], Package],
        make: Callable[[Package, int], Version],
        replicas: int,
    ) -> None:
        self.name = first.service.model
        self.state = "LOADING"
        """READY, LOADING, UNLOADING or UNAVAILABLE, as the protocol names them."""
        self.reason = ""
        self._read = read
        self._make = make
        self._first: Package | None = first
        self._wanted = replicas
        self._version: Version | None = None
        self._next: Version | None = None
        self._retiring: dict[asyncio.Task[None], Version] = {}
        self._restarts = 0
        self._busy = self._waited = 0.0
        self._exchange = asyncio.Lock()
        self._exchanges: set[asyncio.Task[None]] = set()
        self._loading: set[asyncio.Task[None]] = set()

    # What requests ask.

    @property
    def version(self) -> Version:
        """The one that takes requests. Raises Refusal (503) if none is loaded."""
        if self._version is None:
            raise Refusal(503, f"{self.name} is not loaded", ("retry-after", "1"))
        return self._version

    def admit(self, client: str) -> None:
        """Raises Refusal if one more inference for `client` cannot be taken now."""
        version = self.version
        if version.rate is not None:
            version.rate.admit(client)
        version.queue.admit()

    @property
    def ready(self) -> bool:
        """Whether any engine process can take requests."""
        return self.ready_replicas > 0

    # What changes it.

    async def load(self) -> None:
        """Serve the package that is in the folder now; the version before answers what it was asked.

        It goes on if who asked for it leaves. Raises BadInput if the package is none, was changed, has other
        inputs or outputs, or does not answer as it says; RunFailed if its engine dies. What was served is then
        served on.
        """
        await self._to_the_end(self._load())

    async def unload(self) -> None:
        """Take no more requests, answer those that have come, and end the engine processes.

        It goes on if who asked for it leaves.
        """
        await self._to_the_end(self._unload())

    def load_soon(self) -> None:
        """Load in the background, and log how it went; nothing if that is going on already."""
        if self._loading:
            return
        task = asyncio.get_running_loop().create_task(self._load_and_log())
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def stop(self) -> None:
        """End all engine processes; none is left when this returns."""
        versions = self._versions()
        for task in (tasks := [*self._retiring, *self._exchanges, *self._loading]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(version.stop() for version in versions))

    async def _to_the_end(self, exchange: Coroutine[Any, Any, None]) -> None:
        """Half an exchange would leave engine processes that nobody knows of: only `stop` cancels it."""
        task = asyncio.get_running_loop().create_task(exchange)
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        await asyncio.shield(task)

    async def _load(self) -> None:
        async with self._exchange:
            before, self.state = self._version, "LOADING"
            try:
                package = self._first if self._first is not None else await asyncio.to_thread(self._read)
                self._first = None
                if before is not None:
                    _same_interface(before.package, package)
                version = self._next = self._make(package, self._wanted)
                await version.supervisor.start()
                if before is not None:
                    await self._compare(before, version)
            except BaseException as error:
                self.reason = str(error)
                self.state = "UNAVAILABLE" if before is None else "READY"
                if self._next is not None:
                    await self._next.stop()
                raise
            finally:
                self._next = None
            version.supervisor.resize(self._wanted)
            self._version, self.state, self.reason = version, "READY", ""
            if before is not None:
                self._retire(before)

    async def _unload(self) -> None:
        async with self._exchange:
            before, self._version = self._version, None
            if before is not None:
                self.state = "UNLOADING"
                self._retire(before)
                await asyncio.gather(*self._retiring)
            self.state, self.reason = "UNAVAILABLE", "unloaded"

    async def _load_and_log(self) -> None:
        try:
            await self.load()
            log.info("%s was loaded anew", self.name)
        except (BadInput, RunFailed, ConnectionError, TimeoutError) as error:
            log.error("%s was not loaded anew: %s", self.name, error)

    def _retire(self, version: Version) -> None:
        task = asyncio.get_running_loop().create_task(version.retire())
        self._retiring[task] = version
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        version = self._retiring.pop(task)
        self._restarts += version.supervisor.restarts
        self._busy += version.supervisor.busy_seconds()
        self._waited += version.queue.waited_seconds()

    async def _compare(self, before: Version, after: Version) -> None:
        """Log how many of the new version's own examples the old one answers alike."""
        reference = read_reference(after.package.folder, after.form)
        if reference is None:
            return
        inputs, outputs = reference
        name, wanted = next(iter(outputs.items()))
        try:
            async with asyncio.timeout(COMPARED_SECONDS):
                old = (await before.queue.run(inputs, monotonic() + COMPARED_SECONDS))[name]
        except (Refusal, TimeoutError) as error:
            log.info("%s: the old version could not be compared: %s", self.name, error)
            return
        same = agreement(wanted, old) if old.shape == wanted.shape else 0.0
        log.info("%s: the new version answers %.0f %% of its examples as the old one", self.name, 100 * same)

    # What watchers ask, of all versions together.

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(len(version.queue) for version in self._versions())

    @property
    def limit(self) -> int:
        """Requests that may wait."""
        return self._version.queue.limit if self._version is not None else 0

    def waited_seconds(self) -> float:
        """Time that requests have waited so far, together."""
        return self._waited + sum(version.queue.waited_seconds() for version in self._versions())

    def busy_seconds(self) -> float:
        """Time that engine processes have spent on batches so far, together."""
        return self._busy + sum(version.supervisor.busy_seconds() for version in self._versions())

    @property
    def restarts(self) -> int:
        """How often an engine process was started in place of one that ended."""
        return self._restarts + sum(version.supervisor.restarts for version in self._versions())

    @property
    def processes(self) -> list[int]:
        """Process numbers of all engine processes."""
        return [number for version in self._versions() for number in version.supervisor.processes]

    @property
    def threads(self) -> int:
        """Threads of an engine process."""
        return self._version.supervisor.threads if self._version is not None else 1

    @property
    def ready_replicas(self) -> int:
        """How many engine processes can take requests."""
        return self._version.supervisor.ready_replicas if self._version is not None else 0

    @property
    def replicas(self) -> int:
        """How many engine processes there should be."""
        return self._wanted

    def resize(self, replicas: int) -> None:
        """Have so many engine processes."""
        self._wanted = replicas
        if self._version is not None:
            self._version.supervisor.resize(replicas)

    def _versions(self) -> list[Version]:
        return [one for one in (self._version, self._next, *self._retiring.values()) if one is not None]


def _same_interface(old: Package, new: Package) -> None:
    for name in ("model", "task", "inputs", "outputs"):
        before, after = getattr(old.service, name), getattr(new.service, name)
        if before != after:
            raise BadInput(
                f"{new.folder} has another {name.rstrip('s')} than what is served, which would break its "
                "clients; start a server of its own for it"
            )
