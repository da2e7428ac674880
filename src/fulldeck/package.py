"""A package: a folder with all that a server needs, sealed by a manifest of hashes; no pickle, no code.

manifest.json     format, name, fulldeck version, metrics, lineage, and size and SHA-256 of every file
manifest.sha256   SHA-256 of the manifest itself
service.json      what to serve: model name, task, classes, inputs, outputs, models, serving
encoder.json      how a raw item becomes the model's input
*.onnx            artifacts, or
model.safetensors weights of a built-in network, whose description is in service.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fulldeck.declared import Declared
from fulldeck.errors import BadInput
from fulldeck.files import sha256, write_bytes, write_json
from fulldeck.param import param
from fulldeck.service import Serving

if TYPE_CHECKING:
    from fulldeck.encoders import Encoder
    from fulldeck.engines import Engine

FORMAT = 1
MANIFEST, SERVICE, ENCODER = "manifest.json", "service.json", "encoder.json"
SEAL = "manifest.sha256"


class TensorSpec(Declared):
    """One input or output of the model; -1 in `shape` is any size, and its first place is the batch."""

    name: str = param(..., doc="The tensor's name.")
    datatype: str = param(..., doc="The Open Inference Protocol's name of the type: FP32, INT64, UINT8, ...")
    shape: tuple[int, ...] = param(..., doc="Sizes with the batch first.")


class PackagedModel(Declared):
    """One form of the model in the package, and the engine that it is meant for."""

    path: str = param(..., doc="File in the package.")
    kind: str = param(..., doc="onnx or safetensors.")
    precision: str = param(..., doc="fp32, bf16, fp16, int8, int4.")
    engine: str = param(..., doc="The engine that it is meant for.")


class ServiceFile(Declared):
    """The content of service.json."""

    model: str = param(..., doc="The model's name in URLs.")
    task: str = param(..., doc="classification, regression or language_modelling.")
    classes: tuple[str, ...] = param((), doc="Label names in the order of the outputs.")
    inputs: tuple[TensorSpec, ...] = param(..., doc="The model's inputs.")
    outputs: tuple[TensorSpec, ...] = param(..., doc="The model's outputs.")
    models: tuple[PackagedModel, ...] = param(..., doc="The forms of the model; the last one is preferred.")
    network: dict[str, Any] | None = param(None, doc="A built-in network's description, for safetensors.")
    serving: Serving = param(..., doc="How to serve it.")
    carried: dict[str, Any] = param({}, doc="What instructions left for the server, by label.")


@dataclass(frozen=True)
class Package:
    """A package folder whose every byte has been checked."""

    folder: Path
    manifest: Mapping[str, Any]
    service: ServiceFile

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read and verify a package.

        Raises BadInput if it is none, or if any file was changed, added or removed since it was sealed.
        No file is parsed before its hash has been compared.
        """
        if not (folder / MANIFEST).is_file():
            raise BadInput(f"{folder} is not a package: it has no {MANIFEST}")
        if not (folder / SEAL).is_file() or (folder / SEAL).read_bytes() != _seal(folder):
            raise BadInput(f"{folder}: {MANIFEST} was changed after it was packaged")
        manifest = _read(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise BadInput(
                f"{folder} has package format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        verify(folder, manifest)
        service = ServiceFile(**_read(folder / SERVICE))
        return cls(folder, manifest, service)

    def encoder(self) -> Encoder:
        """The packaged encoder."""
        from fulldeck.encoders import load_encoder

        return load_encoder(_read(self.folder / ENCODER))

    def model(self, engine: str = "auto") -> PackagedModel:
        """The form of the model for `engine`; `auto` takes the preferred one.

        Raises BadInput if the package has no form for that engine.
        """
        fitting = [model for model in self.service.models if engine in ("auto", model.engine)]
        if not fitting:
            there = ", ".join(sorted({model.engine for model in self.service.models}))
            raise BadInput(f"the package has no model for engine {engine}; it has one for {there}")
        return fitting[-1]

    def engine(self, name: str = "auto", *, threads: int = 0) -> Engine:
        """Load the model in its engine (or in engine `name`)."""
        from fulldeck.engines import open_network, open_onnx

        model = self.model(name)
        if model.kind == "onnx":
            return open_onnx(self.folder / model.path, threads=threads)
        if self.service.network is None:
            raise BadInput(f"{SERVICE} has no network for {model.path}")
        return open_network(self.service.network, self.folder / model.path, threads=threads)


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of all files in `folder`; `facts` (name, metrics, ...) go beside the hashes."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, SEAL)
    }
    write_json(folder / MANIFEST, {"format": FORMAT, **facts, "files": files})
    write_bytes(folder / SEAL, _seal(folder))


def _seal(folder: Path) -> bytes:
    return f"{sha256(folder / MANIFEST)}\n".encode()


def verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file of `folder` with the manifest.

    Raises BadInput naming the first file that was changed, added or removed, or that is a link.
    """
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise BadInput(f"{folder / MANIFEST} lists no files")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise BadInput(f"{folder}: {name} is a link; a package holds files only")
        if path.is_file() and name not in (MANIFEST, SEAL):
            found[name] = path
    if missing := sorted(set(listed) - set(found)):
        raise BadInput(f"{folder}: {missing[0]} is missing")
    if added := sorted(set(found) - set(listed)):
        raise BadInput(f"{folder}: {added[0]} is not in the manifest")
    for name, path in found.items():
        if sha256(path) != listed[name].get("sha256"):
            raise BadInput(f"{folder}: {name} was changed after it was packaged")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} must hold a JSON object")
    return value
