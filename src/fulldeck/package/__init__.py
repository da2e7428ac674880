"""A package: a folder with all that a server needs, sealed by a manifest of hashes; no pickle.

manifest.json     format, name, fulldeck version, metrics, lineage, and size and SHA-256 of every file
manifest.sha256   SHA-256 of the manifest itself
service.json      what to serve: model name, task, classes, inputs, outputs, models, serving
encoder.json      how a raw item becomes the model's input
reference.safetensors  a few of the model's inputs, and what it answers to them
signature.json    who sealed it, if it was signed
*.onnx            artifacts, or
model.safetensors weights of a built-in network, whose description is in service.json
*.aoti, *.tvm ... native code that `fulldeck compile` added, for one kind of machine
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fulldeck.declared import Declared
from fulldeck.errors import BadInput
from fulldeck.files import atomic_folder, refusing_disk, sha256, write_bytes, write_json, write_with
from fulldeck.onnx_file import copy_model, model_files
from fulldeck.package.reference import Array, label, read_reference, write_reference
from fulldeck.package.signing import SIGNATURE
from fulldeck.param import param
from fulldeck.service import Serving

if TYPE_CHECKING:
    from fulldeck.encoders import Encoder
    from fulldeck.engines import Engine
    from fulldeck.engines.signature import Signature

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
    kind: str = param(..., doc="onnx, safetensors, or compiled for an engine: aoti, tvm, tensorrt.")
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
    digest: str
    """SHA-256 of its manifest, and so of all of it."""

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
        return cls(folder, manifest, service, sha256(folder / MANIFEST))

    def replaced(self) -> bool:
        """Whether another package lies in its folder by now."""
        try:
            return (self.folder / SEAL).read_bytes() != f"{self.digest}\n".encode()
        except OSError:
            return False

    def encoder(self) -> Encoder:
        """The packaged encoder."""
        from fulldeck.encoders import load_encoder

        return load_encoder(_read(self.folder / ENCODER))

    def model(self, engine: str = "auto") -> PackagedModel:
        """The form of the model for `engine`; `auto` takes the preferred one whose engine is installed.

        Raises BadInput if the package has no form for that engine.
        """
        from fulldeck.engines import installed

        fitting = [model for model in self.service.models if engine in ("auto", model.engine)]
        if not fitting:
            there = ", ".join(sorted({model.engine for model in self.service.models}))
            raise BadInput(f"the package has no model for engine {engine}; it has one for {there}")
        return next((model for model in reversed(fitting) if installed(model.engine)), fitting[-1])

    def engine(self, name: str = "auto", *, threads: int = 0) -> Engine:
        """Load the model in its engine (or in engine `name`)."""
        return self.engine_of(self.model(name), threads=threads)

    def engine_of(self, model: PackagedModel, *, threads: int = 0) -> Engine:
        """Load one form of the model in its engine."""
        from fulldeck.engines import open_model, open_network

        path, precision = self.folder / model.path, model.precision
        if model.kind != "safetensors":
            return open_model(
                path, kind=model.kind, precision=precision, engine=model.engine, threads=threads
            )
        if self.service.network is None:
            raise BadInput(f"{SERVICE} has no network for {model.path}")
        return open_network(
            self.service.network, path, threads=threads, precision=precision, signature=self._signature()
        )

    def _signature(self) -> Signature:
        from fulldeck.engines.shapes import Range, any_size
        from fulldeck.engines.signature import Signature

        return Signature(
            {
                spec.name: (
                    spec.datatype.replace("FP", "float").lower(),
                    tuple(any_size() if size < 0 else Range(size, size, size) for size in spec.shape),
                )
                for spec in self.service.inputs
            }
        )


def add_form(folder: Path, file: Path, form: PackagedModel, network: Mapping[str, Any] | None = None) -> None:
    """Put another form of the model into the package `folder`, as the preferred one, and seal it anew.

    `file` is copied to `form.path`. Forms of the same engine and precision, and of the same path if its content
    differs, go, and so does a signature. `network` describes a built-in network, for safetensors. The package is
    replaced whole or not at all. Raises BadInput if it is none or was changed, or if the disk is full.
    """
    package = Package.open(folder)
    service, manifest = package.service, package.manifest
    beside = [one for one in model_files(file) if one != file]
    names = {form.path: file, **{one.name: one for one in beside}}
    there = manifest["files"]
    same = all(name in there and there[name]["sha256"] == sha256(one) for name, one in names.items())
    kept = [
        one
        for one in service.models
        if (one.engine, one.precision) != (form.engine, form.precision) and (same or one.path != form.path)
    ]
    dropped = {one.path for one in service.models} - {one.path for one in (*kept, form)}
    service = service.replace(
        models=(*kept, form),
        serving=service.serving.replace(engine="auto"),
        network=dict(network) if network is not None else service.network,
    )
    with refusing_disk(folder), atomic_folder(folder) as temporary:
        for name in sorted(set(manifest["files"]) - dropped - {SERVICE, *names}):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_with(temporary / name, partial(shutil.copyfile, folder / name))
        copy_model(file, temporary / form.path)
        write_json(temporary / SERVICE, service.model_dump(mode="json"))
        _refer(Package(temporary, manifest, service, ""), package, form)
        seal(temporary, {name: fact for name, fact in manifest.items() if name not in ("format", "files")})


def _refer(package: Package, before: Package, form: PackagedModel) -> None:
    """Write what all forms of the model answer to the rows that `before` has kept; `form` is new."""
    outputs: dict[str, Mapping[str, Array]] = {}
    inputs: Mapping[str, Array] = {}
    for one in package.service.models:
        if (kept := read_reference(before.folder, one)) is not None:
            inputs, outputs[label(one)] = kept
    if not inputs:
        return
    with suppress(BadInput):  # one that takes other sizes has no answer to these rows
        outputs[label(form)] = package.engine_of(form).run(inputs)
    write_reference(package.folder, inputs, outputs)


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of all files in `folder`; `facts` (name, metrics, ...) go beside the hashes."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, SEAL, SIGNATURE)
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
        if path.is_file() and name not in (MANIFEST, SEAL, SIGNATURE):
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
