"""A user's own texts: CSV or parquet with text and label columns."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from fulldeck.data import Data, Examples
from fulldeck.encoders.text import TextEncoder
from fulldeck.errors import BadInput
from fulldeck.networks.text_transformer import TextTransformer
from fulldeck.param import param
from fulldeck.sources.aside import Aside
from fulldeck.sources.column_file import ColumnFile, array
from fulldeck.sources.file_workload import FileWorkload
from fulldeck.sources.labels import index_labels
from fulldeck.workload import TrainingDefaults

TEXTS = ("text", "sentence", "review", "content", "document", "description")
"""Names by which a column of texts is recognised; else it is the one with the longest texts."""
LABELS = ("label", "labels", "target", "class", "category", "sentiment", "y")
"""Names by which a column of labels is recognised."""
COMPARED = 200
"""Rows that are looked at to find the column with the longest texts."""


class Text(FileWorkload):
    """Texts in classes, a vocabulary learnt from them, and a small transformer."""

    kind: ClassVar[str] = "text"
    data_kind: ClassVar[str] = "text"
    task: ClassVar[str] = "classification"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(epochs=4, batch_size=64)

    text: str | None = param(None, doc="Column of texts; left out: by its name, else the longest texts.")
    label: str | None = param(None, doc="Column of labels; left out: by its name.")
    length: int | None = param(None, ge=2, le=4096, doc="Tokens of a text; left out: by the train texts.")
    vocabulary: int = param(8000, ge=300, le=200_000, doc="Most tokens of the vocabulary.")

    def load(self) -> Data:
        """Read the file. Rows without text or label are left out, which is noted."""
        notes: list[str] = []
        file = ColumnFile(self.path)
        aside = Aside.find(self, file, notes)
        label = self._label(file, notes)
        text = self._text(file, {label, *aside.columns}, notes)
        frame = file.read(list(dict.fromkeys([text, label, *aside.columns])))
        present = frame[text].is_not_null()
        if lost := int((~present).sum()):
            notes.append(f"{lost:,} rows without a text are left out")
            frame = frame.filter(present)
        if frame.height == 0:
            raise BadInput(f"{file.where(text)} has no texts")
        labels = index_labels(array(frame[label]), file.where(label))
        frame = frame.filter(labels.kept)
        data = Data(
            self.name,
            "text",
            "classification",
            Examples(frame[text].to_list(), labels.targets),
            classes=labels.classes,
            notes=(*notes, *labels.notes),
        )
        return aside.placed(data, frame, self.max_train)

    def encoder(self, data: Data) -> TextEncoder:
        """A vocabulary from the train part."""
        assert isinstance(data.train.inputs, list)
        return TextEncoder.fit(data.train.inputs, vocabulary=self.vocabulary, length=self.length)

    def model(self, data: Data) -> nn.Module:
        """Two layers of width 128."""
        assert isinstance(data.encoder, TextEncoder)
        return TextTransformer(data.encoder.vocabulary, data.encoder.length, len(data.classes))

    def _label(self, file: ColumnFile, notes: list[str]) -> str:
        if self.label is not None:
            return file.named(self.label)
        label = file.usual("label", LABELS, notes)
        if label is None:
            raise BadInput(f"{file.path}: name the column of labels with label:; it has {file.listed}")
        return label

    def _text(self, file: ColumnFile, others: set[str], notes: list[str]) -> str:
        if self.text is not None:
            if not file.holds_texts(file.named(self.text)):
                raise BadInput(f"{file.where(self.text)} holds no texts")
            return self.text
        text = file.usual("text", TEXTS, notes)
        if text is not None:
            return text
        candidates = [name for name in file.types if name not in others and file.holds_texts(name)]
        if not candidates:
            raise BadInput(f"{file.path}: name the column of texts with text:; it has {file.listed}")
        head = file.read(candidates).head(COMPARED)
        text = max(candidates, key=lambda name: sum(map(len, head[name].drop_nulls())))
        notes.append(f'text: column "{text}", which has the longest texts')
        return text
