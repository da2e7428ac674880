"""The folder of a run: made once, locked while somebody works in it, and found again to go on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import psutil

from fulldeck.errors import BadInput
from fulldeck.files import plain, refusing_disk, write_json, write_text
from fulldeck.recipe_changes import changed_settings, describe_changes, flags_back

RECIPE, PLAN, RESULT, METRICS = "recipe.yaml", "plan.json", "result.json", "metrics.jsonl"
EVALUATION = "evaluation.json"
EXAMPLES = ("example.png", "example.json")
"""An item that can be sent to the model, as `predict` and a server take it; a run keeps one of them."""
_LOCK, _JOB = ".lock", ".job"


@dataclass(frozen=True)
class RunFolder:
    """`<out>/<time>-<name>`; no other run has it."""

    path: Path

    WORD: ClassVar[str] = "run"
    """What is kept here, for messages."""
    PARTS: ClassVar[tuple[str, ...]] = ("artifacts", "checkpoints")
    """The folders that it begins with."""

    @classmethod
    def create(cls, out: Path, name: str, recipe: str, job: str | None = None) -> Self:
        """Make a new folder below `out` that holds the resolved recipe, and the launcher's `job` if there is one.

        Raises BadInput if `out` cannot be written.
        """
        moment = datetime.now().strftime("%Y%m%d-%H%M%S")
        new = cls(out / _unfinished("new"))
        try:
            _remove_abandoned(out)
            for part in cls.PARTS:
                (new.path / part).mkdir(parents=True)
            write_text(new.path / RECIPE, recipe)
            if job is not None:
                write_text(new.path / _JOB, job)
            # It takes its name when it is whole, so a crash leaves no folder that cannot go on.
            count = 1
            while True:
                path = out / (f"{moment}-{name}" if count == 1 else f"{moment}-{name}-{count}")
                try:
                    new.path.rename(path)
                    return cls(path)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
                    count += 1
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(
                f"cannot make a {cls.WORD} folder below {out}: {reason}; choose another with --out"
            ) from None
        finally:
            shutil.rmtree(new.path, ignore_errors=True)

    @classmethod
    def unfinished(cls, out: Path, name: str, recipe: str) -> Self:
        """The newest run of this very recipe below `out` that has not finished and is not running now.

        Raises BadInput if there is none; where one of the same name has other settings, saying which.
        """
        unfinished = cls._unfinished(out, name)
        for run in unfinished:
            if (run.path / RECIPE).read_text() == recipe:
                return run
        without = "start one without --resume"
        if not unfinished:
            raise BadInput(f"there is no unfinished {cls.WORD} of this recipe below {out}; {without}")
        newest = unfinished[0].path
        changes = changed_settings((newest / RECIPE).read_text(), recipe)
        back = flags_back(changes)
        remedy = f"with {back}" if back else f"with the settings in {newest / RECIPE}"
        raise BadInput(
            f"there is no unfinished {cls.WORD} of this very recipe below {out}; {newest} differs in "
            f"{describe_changes(changes)}: go on with it {remedy}, or {without}"
        )

    @classmethod
    def of_job(cls, out: Path, name: str, recipe: str, job: str | None, again: bool) -> Self | None:
        """The unfinished run that an earlier start of this `job` began; None if there is none.

        `again`: the launcher names no job, and says that this is no first start.
        """
        for run in cls._unfinished(out, name):
            file = run.path / _JOB
            begun_by = file.read_text() if file.is_file() else None
            if (run.path / RECIPE).read_text() == recipe and (begun_by == job if job is not None else again):
                return run
        return None

    @classmethod
    def _unfinished(cls, out: Path, name: str) -> list[Self]:
        """Runs of that name that have not finished and are not running now, the newest first."""
        named = re.compile(rf"\d{{8}}-\d{{6}}-{re.escape(name)}(-\d+)?")
        found = [
            cls(path)
            for path in sorted(out.glob(f"*-{name}*"), reverse=True)
            if named.fullmatch(path.name) and not path.is_symlink() and (path / RECIPE).is_file()
        ]
        return [run for run in found if run.status() != "finished" and not run._is_locked()]

    @property
    def artifacts(self) -> Path:
        """Where converted models are written."""
        return self.path / "artifacts"

    @property
    def checkpoints(self) -> Path:
        """Where the state of training is kept."""
        return self.path / "checkpoints"

    def status(self) -> str | None:
        """running, finished, failed or interrupted, as the result file says; None before it was written."""
        try:
            status: str | None = json.loads((self.path / RESULT).read_bytes()).get("status")
        except (FileNotFoundError, ValueError):
            return None
        return status

    def decisions(self) -> dict[str, str | None] | None:
        """Why each instruction of the plan, by label, does not act (None: it does); None before that was written."""
        try:
            steps = json.loads((self.path / PLAN).read_bytes())["steps"]
        except FileNotFoundError:
            return None
        return {step["label"]: step["skipped"] for step in steps}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock ends with the process, however it ends. Raises BadInput if it is held."""
        descriptor = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"another process is working in {self.path}") from None
            yield
        finally:
            os.close(descriptor)

    def point_latest(self) -> None:
        """Let `latest` beside this folder point to it."""
        link = self.path.parent / "latest"
        if link.exists() and not link.is_symlink():
            return
        temporary = self.path.parent / _unfinished("latest")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.path.name)
        temporary.replace(link)

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with refusing_disk(self.path / METRICS), (self.path / METRICS).open("a") as stream:
            stream.write(json.dumps(values, default=plain) + "\n")

    def rewind_metrics(self, epoch: int) -> None:
        """Drop the lines from `epoch` on: they will be written again."""
        if (self.path / METRICS).is_file():
            lines = (self.path / METRICS).read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] < epoch]
            write_text(self.path / METRICS, "".join(kept))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json."""
        write_json(self.path / RESULT, result)

    def discard(self) -> None:
        """Remove the folder: the run could not begin. `latest` points to the newest one that is left."""
        shutil.rmtree(self.path, ignore_errors=True)
        link = self.path.parent / "latest"
        if link.is_symlink() and link.readlink() == Path(self.path.name):
            link.unlink(missing_ok=True)
            left = [
                path for path in sorted(self.path.parent.glob("[0-9]*-[0-9]*-*")) if (path / RECIPE).is_file()
            ]
            if left:
                type(self)(left[-1]).point_latest()

    def _is_locked(self) -> bool:
        try:
            with self.locked():
                return False
        except BadInput:
            return True


def example_of(run: Path) -> Path | None:
    """The item that `run` keeps to ask its model with, if it does."""
    return next((path for name in EXAMPLES if (path := run / name).is_file()), None)


def _unfinished(word: str) -> str:
    """The name of what this process is making in the folder of runs, which many may use at once."""
    return f".{word}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"


def _remove_abandoned(out: Path) -> None:
    """Remove what processes of this machine were making when they were killed."""
    own = re.compile(rf"\.(new|latest)\.{re.escape(socket.gethostname())}\.(?P<process>\d+)\.\d+")
    for path in out.glob(".*"):
        found = own.fullmatch(path.name)
        if found is None or psutil.pid_exists(int(found["process"])):
            continue
        if path.is_symlink():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
