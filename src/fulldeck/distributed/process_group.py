"""The process group: joined before a training, left after it, and what is said when a process of it is lost."""

from __future__ import annotations

import gc
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist

from fulldeck.distributed.ranks import Ranks
from fulldeck.distributed.together import Together, launched, local
from fulldeck.errors import BadInput, LostRank, RunFailed, SaidElsewhere

ON_DEVICE = {"cuda": "nccl", "xpu": "xccl"}
"""The backend that is made for a kind of accelerator; everything else exchanges by gloo."""
NOTICING = 5.0
"""Seconds in which ranks notice that one of them is lost, once the first has."""
_LOST = re.compile(r"gloo|NCCL|Connection closed|Connection reset|Broken pipe|Timed out|timed out|Socket")
_joined: Ranks | None = None


def pick_backend(name: str, device_type: str) -> str:
    """What `init_process_group` gets for `name` on a kind of device; what lies on the host goes by gloo.

    Raises BadInput for a backend that this PyTorch was built without, or that is not for this device.
    """
    wanted = ON_DEVICE.get(device_type, "gloo") if name == "auto" else name
    if not dist.is_available() or not dist.is_backend_available(wanted):
        there = [one for one in ("gloo", "nccl", "xccl", "mpi", "ucc") if dist.is_backend_available(one)]
        raise BadInput(
            f"this PyTorch was built without the backend {wanted}; write backend: auto"
            + (f", or {' or '.join(there)}" if there else "")
        )
    for kind, backend in ON_DEVICE.items():
        if wanted == backend and device_type != kind:
            raise BadInput(
                f"the backend {wanted} exchanges what lies on {kind}, and this training is on {device_type}; "
                "write backend: auto or gloo"
            )
    return wanted if wanted == "gloo" or device_type == "cpu" else f"cpu:gloo,{device_type}:{wanted}"


def join(together: Together, device_type: str) -> Ranks:
    """Enter the group of the processes that a launcher started; alone, if it started none.

    The environment says which rank this one is (RANK, WORLD_SIZE, LOCAL_RANK, as torchrun sets them). A second
    call gives what the first did. Raises BadInput if a backend, a GPU or the address cannot be had, RunFailed if
    the others do not come in time.
    """
    global _joined
    rank, world_size = launched()
    if _joined is not None or world_size == 1:
        return _joined or Ranks(together=False)
    backend = pick_backend(together.backend, device_type)
    _take_device(together, device_type)
    if not dist.is_initialized():
        try:
            dist.init_process_group(
                backend,
                init_method=together.init_method,
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=together.timeout_seconds),
            )
        except (RuntimeError, ValueError) as error:
            raise _refusal(error, together, rank, world_size) from None
    _joined = Ranks().__enter__()
    return _joined


def leave() -> None:
    """End the group that `join` has entered."""
    global _joined
    if _joined is not None:
        _joined = None
        # What DDP leaves in cycles must not be the last to hold the group: it would take it down with the
        # interpreter locked, and wait for ever for a thread of the group that wants the lock.
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def joined(together: Together | None, device_type: str) -> Iterator[Ranks]:
    """Within it the processes are together; one that is lost is named to all others.

    Raises BadInput if a launcher started several and nothing says how they train together.
    """
    _, world_size = launched()
    if world_size == 1:
        yield Ranks(together=False)
        return
    if together is None:
        raise BadInput(
            f"this is one of {world_size} processes (WORLD_SIZE), and nothing in the recipe says how they train "
            "together; write distributed: {} into it"
        )
    ranks = join(together, device_type)
    with _Roll(ranks).called():
        yield ranks
        leave()


@dataclass(frozen=True)
class Member:
    """One of the processes, by name."""

    rank: int
    host: str
    process: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.process} on {self.host})"

    def fate(self) -> str | None:
        """What became of it, where this machine can tell; None if it lives, or is elsewhere."""
        if self.host != socket.gethostname():
            return None
        try:
            status = psutil.Process(self.process).status()
        except psutil.Error:
            return "has ended"
        if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "has ended"
        return "is stopped" if status == psutil.STATUS_STOPPED else None


class _Roll:
    """The members of a group, and what each leaves behind in its store when it goes."""

    def __init__(self, ranks: Ranks) -> None:
        self.rank = ranks.rank
        self.members = [
            Member(rank, *place)
            for rank, place in enumerate(ranks.gather((socket.gethostname(), os.getpid())))
        ]
        self.store: Any = dist.distributed_c10d._get_default_store()

    @contextmanager
    def called(self) -> Iterator[None]:
        """Within it, errors that come of a lost process say which; others leave their reason for the others."""
        try:
            yield
        except (RunFailed, BadInput) as error:
            self._leave(str(error))
            if self.rank and self._said(0, str(error)):
                raise SaidElsewhere(error) from None
            raise
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
                self._leave(f"{type(error).__name__}: {error}".splitlines()[0])
                raise
            noticed, words = self._lost()
            lost = LostRank(words)
            if noticed and min(noticed) < self.rank:
                raise SaidElsewhere(lost) from None
            raise lost from error
        except BaseException as error:
            self._leave(f"{type(error).__name__}: {error}".splitlines()[0])
            raise

    def _leave(self, reason: str) -> None:
        self._set(f"ended/{self.rank}", reason)

    def _set(self, key: str, value: str) -> None:
        with suppress(RuntimeError):  # whoever keeps the store may be gone, and with it all who would read it
            self.store.set(f"fulldeck/{key}", value)

    def _get(self, key: str) -> str | None:
        """What was left under `key`. Raises RuntimeError if the store is gone."""
        key = f"fulldeck/{key}"
        return self.store.get(key).decode() if self.store.check([key]) else None

    def _said(self, rank: int, text: str) -> bool:
        """Whether `rank` ends, within some seconds, by the same words."""
        deadline = time.monotonic() + NOTICING
        while time.monotonic() < deadline:
            try:
                if (reason := self._get(f"ended/{rank}")) is not None:
                    return reason == text
            except RuntimeError:
                return False
            time.sleep(0.02)
        return False

    def _lost(self) -> tuple[list[int], str]:
        """Who else has noticed, and in words who is lost: who gave a reason, or else who has not noticed."""
        self._set(f"noticed/{self.rank}", "")
        deadline = time.monotonic() + NOTICING
        noticed: list[int] = []
        while True:
            try:
                ended = [(one, reason) for one in self.members if (reason := self._get(f"ended/{one.rank}"))]
                noticed = [one.rank for one in self.members if self._get(f"noticed/{one.rank}") is not None]
            except RuntimeError:
                ended, noticed = [(self.members[0], "its store does not answer")], []
            missing = [one for one in self.members if one.rank not in noticed]
            if ended:
                one, reason = ended[0]
                return noticed, f"{one} ended: {reason}"
            if not missing:
                return noticed, "the ranks lost their connections to each other"
            fates = [f"{one} {fate}" for one in missing if (fate := one.fate()) is not None]
            if len(fates) == len(missing) or time.monotonic() > deadline:
                said = fates or [f"{one} does not answer" for one in missing]
                return noticed, f"{', '.join(said)}; the others stopped"
            time.sleep(0.05)


def _take_device(together: Together, device_type: str) -> None:
    if device_type == "cpu":
        return
    rank, here = local()
    ids = list(together.gpu_ids) or list(range(here))
    there = torch.accelerator.device_count()
    if len(ids) < here or max(ids[:here]) >= there:
        raise BadInput(
            f"{here} processes on this machine need a GPU each, and there are {there}"
            + (f" of which gpu_ids names {', '.join(map(str, ids))}" if together.gpu_ids else "")
            + "; start fewer processes, or write train.device: cpu"
        )
    torch.accelerator.set_device_index(ids[rank])


def _refusal(error: Exception, together: Together, rank: int, world_size: int) -> Exception:
    """In one line why the group could not be entered."""
    text = str(error).splitlines()[0]
    address = together.init_method or ":".join(
        os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT")
    )
    if "EADDRINUSE" in text:
        return BadInput(
            f"the address {address}, where the processes meet, is taken by another program; choose another port "
            "(init_method, or torchrun --master-port)"
        )
    if "imed out" in text or isinstance(error, dist.DistError):
        return RunFailed(
            f"rank {rank} did not meet the other {world_size - 1} within {together.timeout_seconds:g} s at "
            f"{address}: {text.rstrip('.')}"
        )
    return BadInput(f"the processes cannot meet at {address}: {text.rstrip('.')}")
