"""Many encoded images to one array, decoded in threads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.encoders.image import decode_image, probe_image
from fulldeck.errors import BadInput

PROBED = 500
"""Images, spread evenly, whose headers tell size and colour of all."""
LARGEST_COMMON = 224
"""Images of one size are taken as they are if no edge is longer, in pixels."""
USUAL_EDGE = 64
"""Else they become squares with this edge, in pixels."""
TOGETHER = 64
NAMED = 5
"""Most corrupt images that are named."""

Source = bytes | Path | None


@dataclass(frozen=True)
class Pictures:
    """N x C x H x W uint8 images, which of the sources they are, and notes on what was inferred."""

    images: npt.NDArray[np.uint8]
    kept: npt.NDArray[np.int64]
    notes: tuple[str, ...]


def decode_all(
    sources: Sequence[Source], names: Sequence[str], size: int | None, *, corrupt_is_fatal: bool
) -> Pictures:
    """Decode files (or their contents) to one size, `size` x `size` pixels if it is given.

    Left out, the size is the one that all have, or USUAL_EDGE; colour is kept unless all are grey. A
    corrupt image is left out and named in the notes by its place in `names`. Raises BadInput if all are
    corrupt, or if any is and `corrupt_is_fatal`.
    """
    channels, height, width, inferred = _form(sources, size)
    images = np.empty((len(sources), channels, height, width), dtype=np.uint8)

    def decode(start: int) -> dict[int, str]:
        failed = {}
        for place in range(start, min(start + TOGETHER, len(sources))):
            try:
                images[place] = decode_image(_content(sources[place]), channels, height, width)
            except BadInput as error:
                failed[place] = str(error)
        return failed

    corrupt: dict[int, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for failed in pool.map(decode, range(0, len(sources), TOGETHER)):
            corrupt |= failed
    if not corrupt:
        return Pictures(images, np.arange(len(sources)), inferred)
    told = [f"{names[place]} ({reason})" for place, reason in list(corrupt.items())[:NAMED]]
    more = f" and {len(corrupt) - NAMED:,} more" if len(corrupt) > NAMED else ""
    verb = "is" if len(corrupt) == 1 else "are"
    note = f"{len(corrupt):,} of {len(sources):,} images {verb} corrupt: {', '.join(told)}{more}"
    if corrupt_is_fatal or len(corrupt) == len(sources):
        raise BadInput(note)
    kept = np.setdiff1d(np.arange(len(sources)), list(corrupt))
    return Pictures(images[kept], kept, (*inferred, f"{note}; left out"))


def resize_all(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """N x C x H x W images to `size` x `size` pixels."""
    from PIL import Image

    resized = np.empty((*images.shape[:2], size, size), dtype=np.uint8)
    for image, result in zip(images, resized, strict=True):
        for channel, place in zip(image, result, strict=True):
            place[:] = Image.fromarray(channel).resize((size, size), Image.Resampling.BILINEAR)
    return resized


def _form(sources: Sequence[Source], size: int | None) -> tuple[int, int, int, tuple[str, ...]]:
    """Channels, height, width and notes, by the headers of some of `sources`."""
    chosen = np.unique(np.linspace(0, len(sources) - 1, min(PROBED, len(sources))).astype(int))
    forms: Counter[Any] = Counter()
    for place in chosen:
        try:
            forms[probe_image(_content(sources[place]))] += 1
        except BadInput:
            continue
    channels = 1 if forms and all(grey for _, _, grey in forms) else 3
    colour = "grey" if channels == 1 else "RGB"
    edges = {(width, height) for width, height, _ in forms}
    if size is not None:
        return channels, size, size, (f"images: {colour}",)
    if len(edges) == 1 and max(edge := next(iter(edges))) <= LARGEST_COMMON:
        return channels, edge[1], edge[0], (f"images: {colour}, {edge[0]} x {edge[1]} pixels",)
    sizes = "large" if len(edges) == 1 else "of several sizes"
    note = (
        f"images: {colour}, {sizes}, so resized to {USUAL_EDGE} x {USUAL_EDGE} pixels (write size: to change)"
    )
    return channels, USUAL_EDGE, USUAL_EDGE, (note,)


def _content(source: Source) -> bytes:
    if source is None:
        raise BadInput("no image")
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}") from error
