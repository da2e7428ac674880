import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from fulldeck.encoders import load_encoder
from fulldeck.encoders.image import ImageEncoder, decode_image, probe_image
from fulldeck.errors import BadInput


def saved(array, format="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format, **options)
    return stream.getvalue()


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def test_levels_become_shares():
    encoded = ImageEncoder(1, 8, 8).encode(RAMP[None, None])["input"]
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded[0, 0], RAMP / 255, rtol=1e-6)


def test_a_file_and_nested_lists_of_levels_are_the_same_image():
    encoder = ImageEncoder(1, 8, 8)
    np.testing.assert_array_equal(encoder.parse(saved(RAMP)), encoder.parse(RAMP.tolist()))
    assert encoder.collect([encoder.parse(saved(RAMP))] * 3).shape == (3, 1, 8, 8)


def test_other_sizes_and_modes_are_brought_to_the_models():
    colour = np.stack([RAMP] * 3 + [np.full_like(RAMP, 255)], axis=-1)
    assert decode_image(saved(colour), 3, 4, 6).shape == (3, 4, 6)
    assert decode_image(saved(colour), 1, 8, 8).shape == (1, 8, 8)
    assert decode_image(saved(RAMP > 100), 1, 8, 8).max() == 255


def test_sixteen_bit_levels_are_scaled_not_cut_off():
    deep = (RAMP.astype(np.uint16) << 8).astype(np.uint16)
    np.testing.assert_array_equal(decode_image(saved(deep), 1, 8, 8)[0], RAMP)


def test_a_photo_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    wide = np.zeros((10, 20, 3), dtype=np.uint8)
    wide[:, :10] = 255
    content = saved(wide, "JPEG", exif=exif.tobytes(), quality=95)
    assert probe_image(content) == (10, 20, False)
    upright = decode_image(content, 3, 20, 10)
    assert upright[:, :9].min() > 200
    assert upright[:, 11:].max() < 50


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_damaged_files_raise_nothing_but_bad_input(format):
    rng = np.random.default_rng(0)
    whole = saved(RAMP, format)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        with contextlib.suppress(BadInput):  # some damage is harmless
            content = bytes(damaged[: rng.integers(1, len(damaged) + 1)])
            assert decode_image(content, 1, 8, 8).shape == (1, 8, 8)


def test_a_bomb_is_refused_before_it_is_decoded():
    bomb = saved(np.zeros((9000, 9000), dtype=bool))
    assert len(bomb) < 20_000
    for look in (lambda: probe_image(bomb), lambda: decode_image(bomb, 1, 8, 8)):
        with pytest.raises(BadInput, match="image of 9000 x 9000 pixels is over 64,000,000 pixels"):
            look()


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (b"", "not a readable image: none of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not a readable image"),
        ("text", "send an image file"),
        ({"a": 1}, "send an image file"),
        ([[1, 2], [3]], "nested list of numbers of one shape"),
        ([[1, 2], [3, 4]], r"must have shape \[1, 8, 8\], got \[1, 2, 2\]"),
        ([[300] * 8] * 8, "between 0 and 255"),
        ([[float("nan")] * 8] * 8, "finite"),
    ],
)
def test_refuses_what_is_no_image(item, words):
    with pytest.raises(BadInput, match=words):
        ImageEncoder(1, 8, 8).parse(item)


def test_survives_json():
    encoder = ImageEncoder(3, 4, 5)
    assert load_encoder(json.loads(json.dumps(encoder.to_json()))) == encoder
