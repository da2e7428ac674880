"""Every INT8 form of a model that this machine can run, and the fastest of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fulldeck.candidate import Artifact, Candidate
from fulldeck.data import Array
from fulldeck.engines import open_artifact, why_not
from fulldeck.engines.choice import fastest
from fulldeck.errors import first_line
from fulldeck.installed import is_installed
from fulldeck.instructions.inference.post_training_quantization.onnx_file import (
    quantize_onnx,
    quantize_onnx_by_nncf,
)

LOOKS, SECONDS = (15,), 10.0
"""Rounds after which the fastest is taken, and how long they may take."""


def forms_to_try(
    candidate: Candidate, artifact: Artifact, calibration: Mapping[str, Array], keep: Sequence[str]
) -> list[Candidate]:
    """`candidate` in each quantiser's form (layers in `keep` in float), in each engine here that runs it."""
    folder, source = candidate.folder, artifact.path
    files = [
        quantize_onnx(source, folder / "model.static.int8.onnx", calibration, keep=keep),
        quantize_onnx(source, folder / "model.dynamic.int8.onnx", mode="dynamic", keep=keep),
    ]
    if is_installed("nncf"):
        transformer = candidate.data.kind in ("text", "tokens")
        files.append(
            quantize_onnx_by_nncf(
                source, folder / "model.nncf.int8.onnx", calibration, transformer=transformer, keep=keep
            )
        )
    engines = [name for name in ("onnxruntime", "openvino") if why_not(name) is None]
    forms = [Artifact(path, "onnx", "int8", engine) for path in files for engine in engines]
    return [candidate.with_artifact(form) for form in forms]


def fastest_form(
    present: Candidate, forms: Sequence[Candidate], keeps: Callable[[Candidate], bool]
) -> tuple[Candidate, str]:
    """What answers one row fastest: `present`, or one of `forms` that `keeps` the metric; and what is known, in words.

    All have artifacts. A form that its engine cannot run is left out, and the words say so.
    """
    example = present.example(1)
    named, engines, left_out = {}, {}, []
    for form in (present, *forms):
        assert form.artifact is not None
        name = f"{form.artifact.engine} {form.artifact.path.name}"
        try:
            engine = open_artifact(form.artifact)
            engine.run(example)
            if form is present or keeps(form):
                named[name], engines[name] = form, engine
        except Exception as error:  # engines raise many classes, whose common base is Exception
            if form is present:
                raise
            left_out.append(f"{name} was left out: {first_line(error)}")
    times = fastest(engines, example, looks=LOOKS, seconds=SECONDS)
    told = [f"{name} {timed.latency.estimate:.3g} ms" for name, timed in times.items()]
    return named[next(iter(times))], ", ".join((*told, *left_out))
