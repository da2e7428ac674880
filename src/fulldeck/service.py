"""What a server is started from: the specification that the `configure` doors change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from fulldeck.candidate import Candidate
from fulldeck.declared import Declared
from fulldeck.param import param

BATCHING, LIMITS = "batching", "limits"
"""Labels under which a package carries its Batching and its Limits."""


class Serving(Declared):
    """How a package is served; `serving` in its service.json."""

    engine: str = param(
        "auto",
        doc="Engine: auto (the fastest that runs the artifact), torch, torch_compiled, onnxruntime, openvino, "
        "tvm, tensorrt.",
    )
    workers: int = param(1, ge=1, le=64, doc="Engine processes.")
    threads: int = param(0, ge=0, doc="Threads of one engine process; 0 shares the cores among the workers.")
    queue: int = param(128, ge=1, doc="Requests that may wait; one more is answered 429.")
    deadline_ms: int = param(
        10_000, ge=1, doc="Time a request may take, in milliseconds, unless it asks for less."
    )
    max_body_bytes: int = param(
        16 * 2**20, ge=1024, doc="Largest request body, in bytes; more is answered 413."
    )
    max_batch: int = param(
        64, ge=1, doc="Most rows that one request, or one joint call of the engine, may have."
    )
    stall_ms: int = param(
        1000,
        ge=100,
        doc="Least milliseconds at one batch after which an engine process is taken for hung and replaced; "
        "three times what a slow batch took so far, if that is more.",
    )


class Batching(Declared):
    """How requests are joined; carried by a package whose model may be served so."""

    max_batch: int = param(64, ge=2, doc="Most rows of a joint call; fewer, where more would not pay.")

    @classmethod
    def of(cls, carried: Mapping[str, Any]) -> Self | None:
        """The one that a package carries, if any."""
        return cls(**carried[BATCHING]) if BATCHING in carried else None


class Limits(Declared):
    """Whom a server turns away while it can still answer the others; carried by a package."""

    wait_ms: float | None = param(
        None,
        gt=0,
        doc="Most milliseconds that a request may have to wait for the engine, as it is expected when it comes; "
        "left out: as long as eight calls of the engine take, and at least 50.",
    )
    rate_per_s: float | None = param(
        None, gt=0, doc="Inferences a second that one client address may ask for; left out: any number."
    )
    burst: int = param(20, ge=1, doc="Inferences that a client may ask for at once, before its rate counts.")

    @classmethod
    def of(cls, carried: Mapping[str, Any]) -> Self | None:
        """Those that a package carries, if any."""
        return cls(**carried[LIMITS]) if LIMITS in carried else None


@dataclass(frozen=True)
class Service:
    """A candidate on its way to a server.

    `package` is the folder that a server starts from, once an instruction has written it. `carried`
    holds what a `configure` door adds to the package for the server, as plain JSON, under its label; `stated`
    what it says in the manifest about how the model was made.
    """

    candidate: Candidate
    name: str
    folder: Path
    serving: Serving = field(default_factory=Serving)
    package: Path | None = None
    carried: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    stated: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def stating(self, label: str, value: Any) -> Self:
        """The same service, with plain JSON `value` in the manifest, under `label`."""
        return replace(self, stated=MappingProxyType({**self.stated, label: value}))

    def carrying(self, label: str, value: Any) -> Self:
        """The same service, with plain JSON `value` packaged under `label`."""
        return replace(self, carried=MappingProxyType({**self.carried, label: value}))
