"""Answers in a person's words: an image file, a text or a row in; a label or a value out."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fulldeck.encoders import Encoder
from fulldeck.encoders.table import TableEncoder
from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.errors import BadInput
from fulldeck.package import ServiceFile
from fulldeck.serving.continuation import answer_prompt
from fulldeck.serving.http import Refusal, Request, Response
from fulldeck.serving.multipart import form_files
from fulldeck.serving.protocol import finite, parse_json, to_json
from fulldeck.serving.queue import JobQueue
from fulldeck.serving.wire import Array, Tensors

Notes = list[list[str]]
"""For each item what is to be said beside its answer."""
ITEM_KEYS = {
    "image": ("image", "input"),
    "text": ("text", "input"),
    "table": ("row", "input"),
    "tensor": ("input",),
}
"""Kind of encoder to the keys under which one item may be sent."""
LISTED = 10
"""How many of the most probable classes an answer lists."""
INLINE_BYTES = 16 * 1024
"""Largest JSON body that is encoded on the event loop; a thread costs more than such a small one."""
LOOK_SECONDS = 0.01
"""How often it is looked whether all is answered."""
DECODERS = 2
"""Threads that decode and encode; few, because each may hold a whole picture."""


class Prediction:
    """POST /predict."""

    def __init__(self, service: ServiceFile, encoder: Encoder, queue: JobQueue) -> None:
        self._service = service
        self._encoder = encoder
        self._queue = queue
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="encode")
        self._encoding = 0
        self._active = 0

    async def answer(self, request: Request) -> Response:
        """Encode the items, run the model, say what it predicts. Raises Refusal."""
        self._active += 1
        try:
            return await self._answer(request)
        finally:
            self._active -= 1

    async def finish(self) -> None:
        """Wait until all that has been asked is answered, then end the threads."""
        while self._active:
            await asyncio.sleep(LOOK_SECONDS)
        self.close()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, request: Request) -> Response:
        if isinstance(self._encoder, TokenEncoder):
            output = self._service.outputs[0].name
            return Response(200, to_json(await answer_prompt(request, output, self._encoder, self._queue)))
        if (
            request.header(b"content-type").startswith("application/json")
            and len(request.body) <= INLINE_BYTES
        ):
            several, inputs, notes = self._encode(request)
        else:
            several, inputs, notes = await self._encode_in_thread(request)
        outputs = await self._queue.run(inputs, request.deadline)
        predictions = describe(self._service, finite(outputs[self._service.outputs[0].name]), notes)
        return Response(200, to_json({"predictions": predictions} if several else predictions[0]))

    async def _encode_in_thread(self, request: Request) -> tuple[bool, Tensors, Notes]:
        if self._encoding >= self._queue.limit:
            raise Refusal(429, "too many items wait to be decoded; try again", ("retry-after", "1"))
        self._encoding += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._encode, request)
        finally:
            self._encoding -= 1

    def _encode(self, request: Request) -> tuple[bool, Tensors, Notes]:
        try:
            several, items = self._items(request)
            if not 1 <= len(items) <= self._queue.max_batch:
                raise BadInput(f"send 1 to {self._queue.max_batch} items, got {len(items)}")
            parsed = [self._encoder.parse(item) for item in items]
            return (
                several,
                self._encoder.encode(self._encoder.collect(parsed)),
                remarks(self._encoder, parsed),
            )
        except BadInput as error:
            raise Refusal(400, str(error)) from None

    def _items(self, request: Request) -> tuple[bool, list[Any]]:
        """Whether several items were sent, and the items."""
        kind = request.header(b"content-type").partition(";")[0].strip().lower()
        if not request.body:
            raise BadInput(f"the body is empty; {self._usage()}")
        if kind == "multipart/form-data":
            files = form_files(request.body, request.header(b"content-type"))
            return len(files) > 1, list(files)
        # curl names neither JSON nor a file as what it is, unless told so.
        if kind == "application/json" or request.body.lstrip()[:1] == b"{":
            return self._json_items(parse_json(request.body))
        return False, [request.body]

    def _json_items(self, content: dict[str, Any]) -> tuple[bool, list[Any]]:
        if isinstance(items := content.get("items"), list):
            return True, [unwrap(self._encoder, item) for item in items]
        item = unwrap(self._encoder, content)
        if item is content and (self._encoder.kind != "table" or not content):
            raise BadInput(self._usage())
        return False, [item]

    def _usage(self) -> str:
        forms = {
            "image": "an image file, or {'image': nested list of levels 0 to 255}",
            "text": "{'text': '...'}",
            "table": "a row as {'column': value, ...} or {'row': {...}}",
            "tensor": "{'input': nested list of numbers}",
        }
        return f"send {forms[self._encoder.kind]}, or {{'items': [...]}} for several".replace("'", '"')


def unwrap(encoder: Encoder, item: Any) -> Any:
    """The value of {"row": value}, {"image": value} and the like; anything else as it is."""
    if isinstance(item, dict) and len(item) == 1:
        key, value = next(iter(item.items()))
        # A table may have a column called row, whose value is no object.
        if key in ITEM_KEYS[encoder.kind] and (encoder.kind != "table" or isinstance(value, dict)):
            return value
    return item


def remarks(encoder: Encoder, items: list[Any]) -> Notes:
    """What of each parsed item the model cannot know."""
    return [encoder.remarks(item) if isinstance(encoder, TableEncoder) else [] for item in items]


def describe(service: ServiceFile, output: Array, notes: Notes) -> list[dict[str, Any]]:
    """What the model's outputs (rows first) mean, one description a row, with the row's `notes` if any."""
    if service.task != "classification":
        answers = [{"value": row.item() if row.size == 1 else row.tolist()} for row in output]
    else:
        classes = service.classes or tuple(map(str, range(output.shape[-1])))
        answers = [_classified(row, classes) for row in softmax(output)]
    return [answer | ({"notes": said} if said else {}) for answer, said in zip(answers, notes, strict=True)]


def softmax(logits: Array) -> Array:
    """Probabilities along the last axis, in double precision."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _classified(row: Array, classes: tuple[str, ...]) -> dict[str, Any]:
    order = np.argsort(-row, kind="stable")[:LISTED].tolist()
    return {
        "label": classes[order[0]],
        "probability": float(row[order[0]]),
        "probabilities": {classes[place]: float(row[place]) for place in order},
    }
