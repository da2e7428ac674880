"""Images: decode with a pixel cap, bring to one size, scale to 0..1."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fulldeck.encoders import numeric
from fulldeck.errors import BadInput

MAX_PIXELS = 64_000_000
"""Largest image that is decoded, in pixels; a few kilobytes can unpack to far more."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are tried. Others that Pillow knows are rare, and one of them (EPS) runs a program."""
# Pillow warns of what we refuse, or can read all the same; catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class ImageEncoder:
    """uint8 images of `channels` (1 grey, 3 RGB) x `height` x `width` to float32 in 0..1."""

    channels: int
    height: int
    width: int
    kind: ClassVar[str] = "image"
    lazy: ClassVar[bool] = True

    def encode(self, inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """N x C x H x W uint8 to `input`: the same shape, float32 in 0..1."""
        return {"input": np.multiply(inputs, np.float32(1 / 255), dtype=np.float32)}

    def parse(self, item: bytes | str | Mapping[str, Any] | list[Any]) -> npt.NDArray[np.uint8]:
        """An image file's content, or nested lists of grey levels 0..255, to C x H x W uint8."""
        if isinstance(item, list):
            return self._from_levels(item)
        if not isinstance(item, bytes):
            raise BadInput("send an image file (PNG, JPEG, ...) or nested lists of levels 0 to 255")
        return decode_image(item, self.channels, self.height, self.width)

    def _from_levels(self, item: list[Any]) -> npt.NDArray[np.uint8]:
        levels = numeric(item, "the image")
        if levels.ndim == 2:
            levels = levels[None]
        if levels.shape != (self.channels, self.height, self.width):
            expected = [self.channels, self.height, self.width]
            raise BadInput(f"the image must have shape {expected}, got {list(levels.shape)}")
        if levels.min() < 0 or levels.max() > 255:
            raise BadInput("the image's levels must be between 0 and 255")
        return levels.astype(np.uint8)

    def collect(self, items: list[Any]) -> npt.NDArray[np.uint8]:
        """Stack items to N x C x H x W."""
        return np.stack(items)

    def to_json(self) -> dict[str, Any]:
        """Channels and size."""
        return {"kind": self.kind, "channels": self.channels, "height": self.height, "width": self.width}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["channels"], value["height"], value["width"])


def decode_image(content: bytes, channels: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Decode an image file to `channels` x `height` x `width`, uint8, resized if it has another size.

    A photo is turned upright as its EXIF data say. Raises BadInput if it is not an image, is cut short,
    or has more than MAX_PIXELS pixels.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        with _opened(content) as image:
            # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which is all that a thumbnail needs.
            image.draft(mode, (2 * max(width, height),) * 2)
            if "exif" in image.info:  # the call below costs as much as decoding a small image
                ImageOps.exif_transpose(image, in_place=True)
            picture = _eight_bits(image).convert(mode)
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    except BadInput:
        raise
    except Exception as error:  # Pillow's formats fail with nearly any class of exception
        raise BadInput(f"not a readable image: {_reason(error)}") from error
    array = np.asarray(picture, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def probe_image(content: bytes) -> tuple[int, int, bool]:
    """Width, height, and whether it is grey, from an image file's header. Raises as `decode_image`."""
    try:
        with _opened(content) as image:
            turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = image.size[::-1] if turned else image.size
            return width, height, image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    except BadInput:
        raise
    except Exception as error:  # as above
        raise BadInput(f"not a readable image: {_reason(error)}") from error


def _opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise BadInput(f"image of {image.width} x {image.height} pixels is over {MAX_PIXELS:,} pixels")
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow cuts 16-bit levels off at 255 where it should scale them.
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}"
    return str(error).partition("\n")[0] or type(error).__name__
