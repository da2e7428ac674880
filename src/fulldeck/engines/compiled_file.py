"""One file with compiled native code, what it was compiled for, and what it takes.

A zip without compression of `compiled.json` and `payload`. It is looked through before any of it is loaded: a
file that was cut off or changed, or that is meant for another machine, is refused in one line.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fulldeck.engines.signature import Signature
from fulldeck.errors import BadInput
from fulldeck.files import refusing_disk, write_with

FORMAT = 1
FACTS, PAYLOAD = "compiled.json", "payload"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Compiled:
    """What is said of native code: `needs` of the machine (`fulldeck.engines.processor.traits`), and its tensors."""

    engine: str
    precision: str
    needs: tuple[str, ...]
    signature: Signature
    outputs: tuple[str, ...]
    device: str = "cpu"


def write_compiled(path: Path, payload: Path, facts: Compiled) -> None:
    """Write `payload` with `facts` to `path`, whole or not at all. Raises BadInput where the disk is full."""
    content = {
        "format": FORMAT,
        "engine": facts.engine,
        "precision": facts.precision,
        "needs": list(facts.needs),
        "inputs": facts.signature.to_json(),
        "outputs": list(facts.outputs),
        "device": facts.device,
    }

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(FACTS, json.dumps(content))
            archive.write(payload, PAYLOAD)

    write_with(path, write)


@contextmanager
def open_compiled(path: Path, engine: str, here: list[str], suffix: str) -> Iterator[tuple[Compiled, Path]]:
    """What is said of the code in `path`, and a temporary copy of the code itself, whose name ends in `suffix`.

    `here` are the traits of this machine. Raises BadInput if the file was cut off or changed, is none of
    `engine`, or needs what is not here; the code is not copied then.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path) from error
    with archive:
        facts = _facts(archive, path)
        if facts.engine != engine:
            raise BadInput(f"{path.name} is compiled for engine {facts.engine}, not for {engine}")
        if missing := [need for need in facts.needs if need not in here]:
            raise BadInput(
                f"{path.name} was compiled for {', '.join(missing)}, which this machine does not have; compile "
                "it again here with: fulldeck compile RUN"
            )
        with tempfile.TemporaryDirectory(prefix="fulldeck-") as folder:
            code = Path(folder) / f"model{suffix}"
            with refusing_disk(code), code.open("wb") as target:
                try:
                    with archive.open(PAYLOAD) as source:
                        shutil.copyfileobj(source, target, _BLOCK)
                except (KeyError, EOFError, zipfile.BadZipFile) as error:
                    raise _damaged(path) from error
            yield facts, code


def _facts(archive: zipfile.ZipFile, path: Path) -> Compiled:
    try:
        content = json.loads(archive.read(FACTS))
        if content["format"] != FORMAT:
            raise BadInput(f"{path.name} has format {content['format']}; this version reads {FORMAT}")
        return Compiled(
            engine=content["engine"],
            precision=content["precision"],
            needs=tuple(content["needs"]),
            signature=Signature.from_json(content["inputs"]),
            outputs=tuple(content["outputs"]),
            device=content["device"],
        )
    except (
        KeyError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        json.JSONDecodeError,
        UnicodeDecodeError,
    ) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> BadInput:
    return BadInput(f"{path.name} was cut off or changed after it was compiled; compile it again")
