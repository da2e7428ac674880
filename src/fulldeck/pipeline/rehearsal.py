"""The rehearsal: a server is started from the package, asked real questions, and stopped.

Items go over HTTP as a person would send them, so the whole way is tried: decoding, encoding, transport,
engine, label names. The answers are compared with the candidate's own.
"""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from fulldeck.candidate import Candidate
from fulldeck.data import Examples
from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.errors import RunFailed
from fulldeck.files import write_bytes
from fulldeck.machine import resident_memory
from fulldeck.run_folder import EXAMPLES
from fulldeck.serving.process import server
from fulldeck.text_generation import places

REQUESTS = 100
LARGEST_EXAMPLE = 1 << 20
"""Bytes; a larger item is not kept."""


def rehearse(package: Path, candidate: Candidate, examples: Examples) -> dict[str, Any]:
    """Send up to REQUESTS of `examples` to a server started from `package`.

    Returns how many were answered, agreement (share of equal answers), client-side latency in milliseconds and the
    resident memory of the server's processes. Raises RunFailed if the server does not start or answers with
    an error.
    """
    chosen = examples.take(np.arange(min(REQUESTS, len(examples))))
    agreed, times = 0, list[float]()
    with server(package) as (url, process):
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        for content_type, body, own in questions(candidate, chosen):
            start = time.perf_counter()
            connection.request("POST", "/predict", body, {"Content-Type": content_type})
            response = connection.getresponse()
            answer = response.read()
            if response.status == 429 and times:
                break  # it limits the rate of its clients, as it should
            times.append(1000 * (time.perf_counter() - start))
            if response.status != 200:
                raise RunFailed(f"the rehearsal's server answered {response.status}: {answer.decode()[:200]}")
            agreed += _same(json.loads(answer), own, candidate.data.classes)
        connection.close()
        memory = resident_memory(process)
    return {
        "requests": len(times),
        "agreement": agreed / len(times),
        "latency_ms": {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))},
        "memory_bytes": memory,
    }


def keep_example(folder: Path, candidate: Candidate, examples: Examples) -> str | None:
    """Write the first of `examples` into `folder` as a person would send it, for `predict` and for curl.

    Returns the file's name, one of EXAMPLES, or None if the item is too large to be worth it.
    """
    content_type, body, _ = next(questions(candidate, examples.take(np.arange(1))))
    image, text = EXAMPLES
    if content_type == "application/json":
        item = {key: value for key, value in json.loads(body).items() if key != "tokens"}
        body = json.dumps(item, ensure_ascii=False, indent=2).encode() + b"\n"
    if len(body) > LARGEST_EXAMPLE:
        return None
    name = text if content_type == "application/json" else image
    write_bytes(folder / name, body)
    return name


def questions(candidate: Candidate, examples: Examples) -> Iterator[tuple[str, bytes, Any]]:
    """Content type and body of one request an example, and what the candidate itself answers.

    A language model is asked for the token that follows the first half of each example as a text.
    """
    encoder = candidate.data.encoder
    if not isinstance(encoder, TokenEncoder):
        own = candidate.run(candidate.encoded(examples))
        for row in range(len(examples)):
            yield *as_sent(examples, row, candidate.data.kind), own[row]
        return
    assert isinstance(examples.inputs, np.ndarray)
    for ids in examples.inputs:
        half = ids[: max(1, encoder.length // 2)].tolist()
        prompt = encoder.text(half if encoder.mask is None else [*half, encoder.mask])
        asked = encoder.parse(prompt)
        logits = candidate.run(encoder.encode(encoder.collect([asked])))[0]
        body = json.dumps({"text": prompt, "tokens": 1}).encode()
        yield "application/json", body, logits[places(encoder, asked)].argmax(axis=-1)


def as_sent(examples: Examples, row: int, kind: str) -> tuple[str, bytes]:
    """One raw item as a person would send it: content type and body."""
    inputs = examples.inputs
    if kind == "image" and isinstance(inputs, np.ndarray):
        from PIL import Image

        stream = io.BytesIO()
        levels = inputs[row]
        Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(stream, "PNG")
        return "image/png", stream.getvalue()
    if isinstance(inputs, dict):
        cells = {name: _cell(column[row]) for name, column in inputs.items()}
        return "application/json", json.dumps({"row": cells}).encode()
    key = "text" if kind == "text" else "input"
    item = inputs[row]
    value = item.tolist() if isinstance(item, np.ndarray) else item
    return "application/json", json.dumps({key: value}).encode()


def _cell(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not np.isfinite(plain) else plain


def _same(answer: dict[str, Any], own: Any, classes: tuple[str, ...]) -> bool:
    if "likeliest" in answer:
        return bool([place[0]["id"] for place in answer["likeliest"]] == own.tolist())
    if "label" in answer:
        return bool(answer["label"] == classes[int(np.argmax(own))])
    return bool(np.isclose(answer["value"], float(np.reshape(own, -1)[0]), rtol=1e-3, atol=1e-5))
