import pytest

from fulldeck.errors import BadInput
from fulldeck.serving.multipart import form_files

TYPE = 'multipart/form-data; boundary="--x1"'


def part(content: bytes) -> bytes:
    return (
        b'----x1\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + content + b"\r\n"
    )


def test_binary_content_arrives_untouched() -> None:
    contents = [bytes(range(256)), b"\r\n--x\r\n\r\n", b""]
    assert form_files(b"".join(map(part, contents)) + b"----x1--\r\n", TYPE) == contents


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(part(b"a"), TYPE), (b"----x1--", TYPE), (b"", TYPE), (part(b"a") + b"----x1--", "multipart/form-data"),
     (b"----x1\r\nno headers\r\n----x1--", TYPE)],
)  # fmt: skip
def test_a_malformed_form_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(BadInput):
        form_files(body, content_type)
