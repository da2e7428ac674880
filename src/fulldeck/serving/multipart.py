"""The files in a multipart/form-data body. Reference: RFC 7578."""

from __future__ import annotations

import re

from fulldeck.errors import BadInput

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;]{1,70}))', re.IGNORECASE)


def form_files(body: bytes, content_type: str) -> list[bytes]:
    """The content of each part, in order.

    Raises BadInput if there is no boundary, no part, or no end.
    """
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise BadInput("multipart/form-data has no boundary")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1")
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise BadInput("the multipart/form-data body has no part or no end")
    contents = []
    for piece in pieces[1:-1]:
        _, separator, content = piece.partition(b"\r\n\r\n")
        if not separator:
            raise BadInput("a part of the multipart/form-data body has no headers")
        contents.append(content)
    return contents
