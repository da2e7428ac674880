"""An owner's key: 256 secret bits from which everything about a mark follows, and nothing leads back.

What a mark needs is drawn from SHAKE-256 (FIPS 202) of an HMAC of the key: whoever has no key cannot tell it from
random bits, and whoever wants other bits has to try keys until some happen to fit. The commitment is a SHA-256 of the
key; published before a dispute, it shows that the key is not younger.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fulldeck.errors import BadInput
from fulldeck.files import refusing_disk

FORMAT = "fulldeck owner key 1"
BYTES = 32


@dataclass(frozen=True)
class Key:
    """The secret; it is shown nowhere."""

    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        """One that nobody has."""
        return cls(secrets.token_bytes(BYTES))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key in a file. Raises BadInput if there is none."""
        try:
            value: Any = json.loads(path.read_text())
            secret = bytes.fromhex(value["secret"])
            if value["format"] != FORMAT or len(secret) != BYTES:
                raise ValueError
        except FileNotFoundError:
            raise BadInput(f"{path} does not exist; fulldeck fingerprint new {path} makes a key") from None
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path} is no owner's key; fulldeck fingerprint new FILE makes one") from None
        return cls(secret)

    def write(self, path: Path) -> None:
        """A new file that its owner alone may read. Raises BadInput if there is a file already."""
        text = json.dumps({"format": FORMAT, "secret": self.secret.hex()}, indent=2) + "\n"
        with refusing_disk(path):
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                raise BadInput(f"{path} exists, and a key that is lost cannot be made again") from None
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())

    @property
    def commitment(self) -> str:
        """What may be published: it fixes the key and gives nothing of it away."""
        return hashlib.sha256(FORMAT.encode() + b"\0" + self.secret).hexdigest()

    def bytes_for(self, purpose: str, count: int) -> npt.NDArray[np.uint8]:
        """`count` bytes, others for each purpose."""
        seed = hmac.digest(self.secret, purpose.encode(), "sha256")
        return np.frombuffer(hashlib.shake_256(seed).digest(count), dtype=np.uint8)

    def signs(self, purpose: str, count: int) -> npt.NDArray[np.int8]:
        """`count` numbers that are 1 or -1."""
        bits = np.unpackbits(self.bytes_for(purpose, -(-count // 8)))[:count]
        return 1 - 2 * bits.astype(np.int8)

    def uniform(self, purpose: str, count: int) -> npt.NDArray[np.float64]:
        """`count` numbers strictly between 0 and 1."""
        words = self.bytes_for(purpose, 8 * count).view("<u8")
        return ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
