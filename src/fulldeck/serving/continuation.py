"""POST /predict of a language model: a text in; what comes next, or stands behind the masks, out."""

from __future__ import annotations

from typing import Any

import numpy as np

from fulldeck.declared import Declared
from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.errors import BadInput
from fulldeck.param import param
from fulldeck.serving.http import Refusal, Request
from fulldeck.serving.protocol import finite, parse_json
from fulldeck.serving.queue import JobQueue
from fulldeck.text_generation import draw, filled, likeliest, places


class Prompt(Declared):
    """What may be asked. A masked model takes the text only."""

    text: str = param(..., doc="The text to continue, or with masks to fill in.")
    tokens: int = param(32, ge=1, le=512, doc="Most tokens to write; each costs one call of the model.")
    temperature: float = param(0.0, ge=0, le=10, doc="0 takes the likeliest token, more takes more chances.")
    top_k: int = param(40, ge=1, doc="Draw from this many of the likeliest tokens.")
    seed: int = param(0, ge=0, doc="Another number draws other tokens.")


async def answer_prompt(
    request: Request, output: str, encoder: TokenEncoder, queue: JobQueue
) -> dict[str, Any]:
    """`text`, and for each place that was asked for the `likeliest` tokens. Raises Refusal."""
    try:
        prompt = _prompt(request)
        ids = encoder.parse(prompt.text)
    except BadInput as error:
        raise Refusal(400, str(error).replace("\n", "; ")) from None

    async def logits(tokens: Any) -> Any:
        return finite((await queue.run(encoder.encode(encoder.collect([tokens])), request.deadline))[output])[
            0
        ]

    outputs = await logits(ids)
    answer: dict[str, Any] = {
        "likeliest": [likeliest(encoder, outputs[place]) for place in places(encoder, ids)]
    }
    if encoder.mask is not None:
        return {"text": filled(encoder, ids, outputs), **answer}
    random = np.random.default_rng(prompt.seed)
    written = ids.tolist()
    for done in range(prompt.tokens):
        window = written[-encoder.length :]
        if done:
            outputs = await logits(window)
        last = outputs[len(window) - 1]
        written.append(draw(last, temperature=prompt.temperature, top_k=prompt.top_k, random=random))
    return {"text": encoder.text(written[len(ids) :]), **answer}


def _prompt(request: Request) -> Prompt:
    """JSON with a `text`, or the text itself as the body."""
    kind = request.header(b"content-type").partition(";")[0].strip().lower()
    if kind != "application/json" and request.body.lstrip()[:1] != b"{":
        try:
            return Prompt(text=request.body.decode())
        except UnicodeDecodeError:
            raise BadInput("the text is not valid UTF-8") from None
    return Prompt(**parse_json(request.body))
