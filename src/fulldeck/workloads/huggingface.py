"""A model of Hugging Face's transformers, fine-tuned on a user's own texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from fulldeck.data import Data
from fulldeck.encoders import Encoder
from fulldeck.encoders.text import TextEncoder
from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.errors import BadInput
from fulldeck.param import param
from fulldeck.sources.pretrained import Pretrained, local_data, open_pretrained
from fulldeck.sources.running_text import hold_out, read_running_text
from fulldeck.sources.token_blocks import token_data
from fulldeck.sources.token_workload import bits_per_byte, written_samples
from fulldeck.workload import TrainingDefaults, Workload
from fulldeck.workloads.text import Text

if TYPE_CHECKING:
    from fulldeck.candidate import Candidate
    from fulldeck.training.batch import Metric

LONGEST = 128
"""Tokens of a text or block, unless the recipe says otherwise or the model takes fewer."""


class Huggingface(Workload):
    """A folder that `save_pretrained` wrote (config.json, model.safetensors, tokenizer.json), or a hub's name.

    Without a .safetensors file the model starts from random weights, which is said; pickles and a model's
    own code are never loaded. A folder needs no network. Needs the extra `huggingface`.
    """

    kind: ClassVar[str] = "huggingface"
    data_kind: ClassVar[str] = "text"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(
        epochs=3, batch_size=16, learning_rate=5e-5, weight_decay=0.01
    )

    pretrained: str = param(..., alias="model", doc="Folder of the model, or its name on the hub.")
    data: str = param(
        ..., doc="CSV or parquet, a text file, a folder of these, or a data set's name on the hub."
    )
    task: Literal["classification", "causal_lm", "masked_lm"] = param(  # type: ignore[misc]
        "classification", doc="What to learn: classes of texts, the next token, or hidden tokens."
    )
    text: str | None = param(None, doc="Column of texts; left out: by its name.")
    label: str | None = param(None, doc="Column of labels (classification); left out: by its name.")
    split: str | None = param(None, doc="Column that says train, validation (or dev) or test.")
    length: int | None = param(
        None, ge=8, le=8192, doc="Tokens of a text or block; left out: 128, or the model's."
    )
    max_train: int | None = param(
        None, ge=1, doc="Most training texts (classification); a fixed random choice."
    )
    validation: float = param(
        0.1, gt=0, le=0.4, doc="Share of running text, before the test, for validation."
    )
    test: float = param(0.1, gt=0, le=0.4, doc="Share of running text, at its end, for the test.")

    @property
    def name(self) -> str:
        """The last part of the model's name, with what a URL does not take replaced by `_`."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(self.pretrained).resolve().name) or self.kind

    def load(self) -> Data:
        """Read configuration, tokenizer and data. Raises BadInput in one line for what is not there."""
        notes: list[str] = []
        pretrained = open_pretrained(self.pretrained, notes)
        with local_data(self.data) as path:
            data = self._classes(path) if self.task == "classification" else self._running(path, pretrained)
        data = replace(data, name=self.name, notes=(*notes, *data.notes))
        return data.carrying(self.kind, pretrained)

    def encoder(self, data: Data) -> Encoder:
        """The model's own tokenizer."""
        pretrained = _pretrained(data)
        return data.encoder or TextEncoder(pretrained.tokenizer, self._length(pretrained), pretrained.padding)

    def model(self, data: Data) -> nn.Module:
        """The pretrained model, with a new last layer for classes."""
        return _pretrained(data).build(self.task, data.classes)

    def metrics(self, data: Data) -> Mapping[str, Metric]:
        """As for every workload of the task; for a causal model also bits of a byte."""
        more = {"bits_per_byte": bits_per_byte(data)} if self.task == "causal_lm" else {}
        return {**super().metrics(data), **more}

    def samples(self, candidate: Candidate) -> list[dict[str, str]]:
        """What a language model writes or fills in on test text."""
        return [] if self.task == "classification" else written_samples(candidate)

    def _classes(self, path: str) -> Data:
        return Text(
            path=path, text=self.text, label=self.label, split=self.split, max_train=self.max_train
        ).load()

    def _running(self, path: str, pretrained: Pretrained) -> Data:
        if self.task == "masked_lm" and pretrained.mask is None:
            raise BadInput(f"the tokenizer of {self.pretrained} has no mask token; use task: causal_lm")
        notes: list[str] = []
        parts = read_running_text(path, self.text, notes, split=self.split)
        held = hold_out(parts, self.validation, self.test, notes)
        mask = pretrained.mask if self.task == "masked_lm" else None
        encoder = TokenEncoder(self._length(pretrained), pretrained.tokenizer, mask, pretrained.padding)
        return token_data(self.name, held, encoder, notes)

    def _length(self, pretrained: Pretrained) -> int:
        most = getattr(pretrained.config, "max_position_embeddings", None) or LONGEST
        if self.length is not None and self.length > most:
            raise BadInput(f"length is {self.length}, and {self.pretrained} takes at most {most} tokens")
        return self.length or min(LONGEST, most)


def _pretrained(data: Data) -> Pretrained:
    pretrained: Pretrained = data.carried[Huggingface.kind]
    return pretrained
